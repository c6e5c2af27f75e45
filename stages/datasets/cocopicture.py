"""The image_id and path of the picture that an entry of ``images`` in COCO's form is about."""

from __future__ import annotations

from typing import Any

from stages.datasets.ids import coco_id, coco_id_of, path_id
from stages.datasets.jsonfile import text
from stages.images import MAX_NAME_BYTES, ImageFailure, is_too_long

BACKSLASHES = "file name with backslashes, read as folders"
OTHER_NUMBER = "COCO's number is read from the file name, as the image's id differs from it"


def picture_of(key: str, value: dict[str, Any], ids: str) -> tuple[str, str, tuple[str, ...]]:
    """image_id and path (POSIX) of an entry's picture, and notes on how they were read.

    Args:
        key: the entry's ``id`` as text. value: the entry. ids: the option of that name, ``path`` or ``coco``.

    Raises:
        ImageFailure: the entry does not name a picture, or the path is too long to be one.
    """
    path, notes = _path_of(value)
    if ids == "coco":
        image_id = coco_id_of(path) if path else None
        number = int(key) if key.isascii() and key.isdigit() and len(key) <= 12 else None
        if image_id is None:
            if number is None:
                raise ImageFailure("expected the number in COCO as 'id', as the data set has ids: coco")
            image_id = coco_id(number)
        elif number is None or image_id != coco_id(number):
            notes = (*notes, OTHER_NUMBER)
        return image_id, path or f"{image_id}.jpg", notes
    if not path:
        raise ImageFailure(
            "no 'file_name' and no 'coco_url'; set ids: coco of the data set where 'id' is the number in COCO"
        )
    return path_id(path), path, notes


def _path_of(value: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Path (POSIX) of the picture, empty if the entry does not name one; and notes.

    LVIS has only ``coco_url``, whose last folder and file name are used. EgoObjects has the file name in ``url``.
    """
    for name in ("file_name", "coco_url", "url"):
        found = value.get(name)
        if found is None or found == "":
            continue
        path = text(found, f"{name!r}")
        if "://" in path:
            path = "/".join(path.rpartition("://")[2].split("/")[1:][-2:])
        notes = (BACKSLASHES,) * ("\\" in path)
        path = path.replace("\\", "/")
        while path.startswith("./"):
            path = path[2:]
        if is_too_long(path):
            raise ImageFailure(
                f"{name!r} has {len(path)} characters or a name of more than {MAX_NAME_BYTES} bytes, too many for a path"
            )
        if path:
            return path, notes
    return "", ()
