"""Writes the pictures in the hub's Parquet copies into a folder whose subfolders are splits of a data set of the format images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stages.datasets.base import DatasetError
from stages.datasets.hubfile import pictures_of
from stages.datasets.params import ReasonSegHubOptions
from stages.datasets.reasonseg_hub import files_of, require_one_picture, rows_by_image
from stages.images import ImageFailure, picture_size
from store.storage.files import make_folder, temporary_file

MAX_NAME_BYTES = 200
_STARTS = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}
"""First bytes of a file -> suffix, for the formats that can be read."""


@dataclass
class Unpacked:
    """What was done: pictures written, those that were there already, and a line for each that was not written."""

    written: int = 0
    there: int = 0
    problems: list[str] = field(default_factory=list)


def unpack(root: Path, split: str, options: ReasonSegHubOptions, folder: Path, max_pixels: int) -> Unpacked:
    """Write each picture of a split as ``folder/split/image_id.SUFFIX``, byte for byte, and overwrite nothing.

    A picture is written after it was decoded, and its size is checked before that.

    Raises DatasetError where the split has no file, or one is not of this form.
    """
    done, out = Unpacked(), folder / split
    files = files_of(root, split, options)
    places: dict[tuple[str, int, int], str] = {}
    for image_id, placed in rows_by_image(root, files).items():
        try:
            _check_name(image_id)
            require_one_picture(root, placed)
        except ImageFailure as error:
            done.problems.append(f"{image_id!r:.80}: {error}")
            continue
        file, row = placed[0]
        places[file, row.group, row.place] = image_id
    make_folder(out)
    there = {path.stem: path for path in sorted(out.iterdir())}
    for image_id, data in _pictures(root, files, places):
        try:
            if data is None:
                raise ImageFailure("the row has no bytes of its picture")
            if image_id in there:
                _require_same(there[image_id], data)
                done.there += 1
            else:
                _write(out, image_id, data, max_pixels)
                done.written += 1
        except ImageFailure as error:
            done.problems.append(f"{image_id!r:.80}: {error}")
    return done


def _pictures(
    root: Path, files: list[str], places: dict[tuple[str, int, int], str]
) -> Iterator[tuple[str, bytes | None]]:
    for file in files:
        try:
            for group, place, data in pictures_of(root, file):
                if (file, group, place) in places:
                    yield places[file, group, place], data
        except ImageFailure as error:
            raise DatasetError(f"{root / file}: {error}") from error


def _check_name(name: str) -> None:
    """Raise ImageFailure if a name is not valid for a plain file on every machine."""
    plain = not set(name) & set('/\\:*?"<>|') and name.isprintable() and name.strip() == name
    if not plain or name.startswith(".") or len(name.encode()) > MAX_NAME_BYTES:
        raise ImageFailure("'image_id' is no name of a file")


def _require_same(path: Path, data: bytes) -> None:
    same = path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    if not same:
        raise ImageFailure(f"{path.name} is there already and is another picture; nothing is overwritten")


def _write(out: Path, image_id: str, data: bytes, max_pixels: int) -> None:
    """Write a picture that can be decoded; ImageFailure if it cannot be decoded, or if a file of this name appeared meanwhile."""
    suffix = next((suffix for start, suffix in _STARTS.items() if data.startswith(start)), None)
    if suffix is None:
        raise ImageFailure(f"no JPEG, PNG, WebP, BMP or TIFF (the picture starts with {data[:8]!r})")
    final = out / f"{image_id}{suffix}"
    with temporary_file(out, [data]) as (temporary, _, _):
        picture_size(temporary, max_pixels)
        try:
            os.link(temporary, final)
        except FileExistsError:
            _require_same(final, data)
        except OSError:  # a file system without hard links
            with final.open("xb") as file:
                try:
                    file.write(data)
                except BaseException:
                    with contextlib.suppress(OSError):
                        final.unlink()
                    raise
