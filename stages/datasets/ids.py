"""What images are called: by their path, or by their number in COCO."""

from __future__ import annotations

import re

_COCO = re.compile(r"(?:COCO_[a-z]+20[0-9]{2}_)?([0-9]{12})\.jpe?g", re.IGNORECASE)
MAX_COCO_NUMBER = 10**12 - 1


def coco_id(number: int) -> str:
    """image_id of a picture of COCO: its number in 12 digits, as the files of 2017 are named.

    Raises:
        ValueError: COCO has no such number.
    """
    if not 0 <= number <= MAX_COCO_NUMBER:
        raise ValueError(f"found the image id {number}, expected a number of at most 12 digits")
    return f"{number:012d}"


def coco_id_of(name: str) -> str | None:
    """image_id of a file with COCO's name, ``COCO_train2014_000000000009.jpg`` or ``000000000009.jpg``; None: another name."""
    found = _COCO.fullmatch(name.rpartition("/")[2])
    return found[1] if found else None


def path_id(path: str) -> str:
    """image_id of any other file: its path (POSIX) without suffix."""
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}"
