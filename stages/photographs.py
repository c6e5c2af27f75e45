"""The pixels of a split's images, read with the same care as when they were indexed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.images import ImageFailure, inside, largest_file, read_file, read_image
from stages.source_files import source_sha256
from store.format.schema import OK
from store.read.folders import Folders


class GoneError(Exception):
    """The picture cannot be shown: ``str(error)`` says why."""


def photograph(root: Folders, row: Mapping[str, Any], max_pixels: int) -> NDArray[np.uint8]:
    """RGB [H, W, 3], EXIF-oriented, of exactly the file that was indexed.

    Args:
        root: the folder, or folders, of the data set.
        row: of the image in the table ``images``.

    Raises:
        GoneError: the image failed when it was indexed, or its file is missing, has changed, or cannot be read.
    """
    if row["status"] != OK:
        raise GoneError(row["error"] or row["status"])
    path = row["path"]
    try:
        found = source_sha256(root, path)
        if found != row["sha256"]:
            gone = {"missing": "no such file", "outside": "leads outside the data set's folder"}
            raise GoneError(f"{path}: {gone.get(found, 'not the file that was indexed')}")
        return read_image(inside(root, path), max_pixels)
    except ImageFailure as error:
        raise GoneError(f"{path}: {error}") from error
    except OSError as error:  # an unmounted disk, no permission: the page is still useful without this picture
        raise GoneError(f"{path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class PictureFile:
    """The file of a picture as it was indexed. data: its bytes; an EXIF orientation is still in them. path: where it is."""

    data: bytes
    path: Path


def picture_file(root: Folders, row: Mapping[str, Any], max_pixels: int) -> PictureFile:
    """The bytes of exactly the file that was indexed, not decoded.

    Args: as :func:`photograph`.

    Raises:
        GoneError: the image failed when it was indexed, or its file is missing or has changed.
        OSError: its whole folder is gone, or the file cannot be read.
    """
    if row["status"] != OK:
        raise GoneError(row["error"] or row["status"])
    try:
        path = inside(root, row["path"])
        data = read_file(path, largest_file(max_pixels))
    except ImageFailure as error:
        raise GoneError(f"{row['path']}: {error}") from error
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise GoneError(f"{row['path']}: not the file that was indexed")
    return PictureFile(data, path)
