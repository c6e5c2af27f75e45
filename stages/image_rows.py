"""Rows of the table ``images``: for pictures with one or several files, and for pictures that another data set holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stages.base import Entry
from stages.digests import Digests
from stages.images import LOST_LINK, ImageFailure, inside, picture_size, read_image
from stages.source_files import source_sha256
from store.format.schema import ABSENT, FAILED, OK, REMOVED
from store.read.folders import Folders


def image_row(
    root: Folders, entry: Entry, max_pixels: int, digests: Digests | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The row of an image: size after EXIF, digest, and the reason if it cannot be used; and notes about its files.

    Of several files of a picture the first that can be decoded is used; if none of them can, the row is that of the first.
    """
    source = entry.source
    rows = []
    for path in (source.path, *source.others):
        rows.append(_row(root, replace(entry, source=replace(source, path=path)), max_pixels, digests))
        if rows[-1]["status"] in (OK, REMOVED):
            break
    row = rows[-1] if rows[-1]["status"] == OK else rows[0]
    notes = [row["error"]] if row["status"] == OK and row["error"] else []
    if row["status"] == OK:
        notes += [f"{each['path']} cannot be used ({each['error']}), {row['path']} is taken" for each in rows[:-1]]
    others = source.others[len(rows) - 1 :] if row["status"] == OK else ()
    return row, notes + [note for path in others if (note := _difference(root, row, path, max_pixels, digests))]


def _difference(
    root: Folders, row: Mapping[str, Any], path: str, max_pixels: int, digests: Digests | None
) -> str | None:
    """How another file of a picture differs from the one that is used; None: it does not."""
    if source_sha256(root, path, digests) == row["sha256"]:
        return None
    try:
        other = read_image(inside(root, path), max_pixels)
    except ImageFailure:
        return "another file of the picture cannot be used"
    if np.array_equal(read_image(inside(root, row["path"]), max_pixels), other):
        return "another file of the picture has other bytes and the same pixels"
    return f"{path} shows other pixels than {row['path']}, which is taken: two pictures of one number"


def _row(root: Folders, entry: Entry, max_pixels: int, digests: Digests | None) -> dict[str, Any]:
    row: dict[str, Any] = {"image_id": entry.source.image_id, "path": entry.source.path, "height_px": 0, "width_px": 0}
    if entry.removed:
        return {**row, "sha256": "", "status": REMOVED, "error": REMOVED}
    sha256 = source_sha256(root, entry.source.path, digests)
    try:
        path = inside(root, entry.source.path)
        if sha256 == "missing":
            reason = f"{LOST_LINK}:" if path.is_symlink() else "no image file"
            return {**row, "sha256": "", "status": FAILED, "error": f"{reason} {entry.source.path}"}
        height_px, width_px, note = picture_size(path, max_pixels)
    except ImageFailure as error:
        return {**row, "sha256": "" if sha256 == "outside" else sha256, "status": FAILED, "error": str(error)}
    size = {"height_px": height_px, "width_px": width_px}
    return {**row, **size, "sha256": sha256, "status": OK, "error": note}


def borrowed_row(entry: Entry, held: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an image that another data set holds: its row there, and where that is.

    An image that is not ok there, or is missing there, fails for the reason that ``held`` gives.
    """
    row: dict[str, Any] = {"image_id": entry.source.image_id, "path": entry.path, "height_px": 0, "width_px": 0}
    row |= {"holder_split": entry.link[0], "holder_index": entry.link[1]} if entry.link else {}
    if entry.removed:
        return {**row, "sha256": "", "status": REMOVED, "error": REMOVED}
    if held["status"] != OK:
        return {**row, "sha256": "", "status": FAILED, "error": held["error"]}
    return row | {name: held[name] for name in ("path", "height_px", "width_px", "sha256", "status", "error")}


def unlisted_row(
    root: Folders, entry: Entry, max_pixels: int, holder: str, digests: Digests | None = None
) -> dict[str, Any]:
    """The row of an image that its holder does not list: as it would be there, but with the status absent unless it failed."""
    assert entry.unlisted is not None
    row, _ = image_row(root, Entry(entry.unlisted), max_pixels, digests)
    row["image_id"] = entry.source.image_id
    return {**row, "status": ABSENT, "error": f"{holder} does not list it (only)"} if row["status"] == OK else row
