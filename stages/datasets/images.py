"""Pictures without annotations, in one or several folders: the user's own, or a collection that other data sets borrow from.

The split ``all`` is every picture below the folders; any other split is the pictures below the folder of its name. Subfolders
and links are followed. Hidden files and folders, and files with other suffixes, are ignored.

COCO (``ids: coco``) is one collection: a picture is identified by its number, whether it lies in train2014, val2014, train2017
or val2017, or in several of them. Every picture of train2014 is in train2017, too; if its files differ, ``index`` says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stages.datasets.base import DatasetError, Expected, Source
from stages.datasets.ids import coco_id_of, path_id
from stages.datasets.params import ImagesOptions
from stages.images import SUFFIXES, ImageFailure, check_inside
from store.addresses import is_remote
from store.read.folders import Folders
from store.storage.listing import files_below, folders, is_folder

ALL = "all"
"""The split that is every picture below the folders."""
DEFAULTS = ImagesOptions()


def list_sources(root: Folders, split: str, options: ImagesOptions = DEFAULTS) -> list[Source]:
    """List a source for each picture, sorted by image_id; files with one COCO number are one picture, in the order of the folders.

    Raises DatasetError if a folder is missing, if there are no pictures, if two files have the same image_id, or if a file name
    is not UTF-8.
    """
    try:
        check_inside(split)
    except ImageFailure as error:
        raise DatasetError(f"{error}; expected a folder in {root}, or all for every picture in it") from error
    below = "" if split == ALL else split
    files: dict[str, list[str]] = {}
    passed_over = 0
    for number, folder in enumerate(root.folders, start=1):
        top = folder / below
        if not is_folder(top):
            if below and len(root.folders) > 1:
                continue
            raise DatasetError(_no_folder(folder, below))
        for relative in sorted(_pictures(top)):
            path = f"{below}/{relative}" if below else relative
            image_id = coco_id_of(relative) if options.ids == "coco" else path_id(relative)
            if image_id is None:
                passed_over += 1
            else:
                shadowed = root.path(path) != f"{folder}/{path}"
                files.setdefault(image_id, []).append(f"@{number}/{path}" if shadowed else path)
    if not files:
        other = f", but {passed_over} pictures with names other than COCO's (000000000009.jpg)" if passed_over else ""
        raise DatasetError(
            f"no pictures below {root}{f' in {below}' if below else ''}{other}; expected *{', *'.join(SUFFIXES)}"
        )
    if options.ids == "path":
        for image_id, paths in files.items():
            if len(paths) > 1:
                raise DatasetError(
                    f"{root.path(paths[0])} and {root.path(paths[1])} would both be the image {image_id!r}: rename or remove one"
                )
    return [Source(image_id, paths[0], (), tuple(paths[1:])) for image_id, paths in sorted(files.items())]


def expected(split: str, options: ImagesOptions = DEFAULTS, holds: bool = True) -> tuple[Expected, ...]:
    """The folder of a split; nothing for the split ``all``, which is the root itself."""
    return () if split == ALL else (Expected("pictures", (split,)),)


def _pictures(top: Path) -> Iterator[str]:
    """Paths of pictures, relative to a folder, in any order. A folder that a link leads to again is not entered again."""
    if is_remote(top):
        found_there = (path.relative_to(top) for path in files_below(top))
        yield from (str(path) for path in found_there if _is_shown(path))
        return
    state = top.stat()
    seen, folders = {(state.st_dev, state.st_ino)}, [""]
    while folders:
        folder = folders.pop()
        with os.scandir(top / folder) as entries:
            found = list(entries)
        for entry in found:
            name = entry.name
            if name.startswith("."):
                continue
            path = f"{folder}/{name}" if folder else name
            if entry.is_dir():
                state = entry.stat()
                if (state.st_dev, state.st_ino) not in seen:
                    seen.add((state.st_dev, state.st_ino))
                    folders.append(path)
            elif name.lower().endswith(SUFFIXES):
                if name != name.encode("utf-8", "replace").decode("utf-8"):
                    raise DatasetError(f"{top}: {path!a}: expected a file name in UTF-8, rename it")
                yield path


def _is_shown(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and not any(part.startswith(".") for part in path.parts)


def _no_folder(folder: Path, below: str) -> str:
    there = [path.name for path in folders(folder)] if is_folder(folder) else []
    missing = f"no folder {below!r} in {folder}" if below else f"no folder {folder}"
    found = f" (folders there: {', '.join(there) or 'none'})" if below else ""
    return f"{missing}{found}; set root or splits of the data set in section data of the params (split all is every picture)"
