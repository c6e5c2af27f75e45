"""File names made from names in the data, which cannot lead out of the export's folder."""

from __future__ import annotations

import re

from stages.images import ImageFailure, check_inside, is_too_long

_UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f\x7f]|^\.')
_LONGEST_ENDING = ".00000.json"


def file_name(image_id: str) -> str:
    """An image_id as the name of one file, without a suffix: ``trip/chelsea`` becomes ``trip%2Fchelsea``.

    Different image_ids have different names. Raises ImageFailure if no file can have the name.
    """
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", image_id)
    return _checked(name)


def below(path: str) -> str:
    """A relative path (POSIX) from the data, unchanged. Raises ImageFailure if it leads elsewhere or no file can have it."""
    if any(part in ("", ".") for part in path.split("/")):
        raise ImageFailure(f"{path!r} is not a plain relative path")
    return _checked(path)


def _checked(name: str) -> str:
    check_inside(name)
    if is_too_long(name + _LONGEST_ENDING):
        raise ImageFailure(f"{name!r:.40}... is too long for the name of a file")
    return name
