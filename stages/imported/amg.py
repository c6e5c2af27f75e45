"""Masks in JSON: the output of ``segment_anything``'s ``scripts/amg.py --convert-to-rle``, SA-1B, and LLM-Seg's ``masks.json``.

The elements tell which of these a file is: a list of masks belongs to the picture with the file's name (amg.py); an object with
``image`` and ``annotations`` is from SA-1B; a list of objects with ``image`` and ``masks`` is from LLM-Seg and covers many
pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.datasets.jsonfile import field, read_json, text
from stages.datasets.jsonstream import read_list
from stages.images import ImageFailure
from stages.imported import Each, Foreign
from stages.imported.records import MAX_MASKS


def read_json_file(path: Path, each: Each) -> None:
    """Call ``each`` for every picture of a file; only an element of LLM-Seg's list is in memory at a time.

    Raises:
        ImageFailure: the file is not JSON, or has none of these three forms.
    """
    with path.open("rb") as file:
        is_object = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    if is_object:
        each(_sa1b(read_json(path.parent, path.name)[0]))
        return
    own: list[Any] = []
    seen = False

    def element(value: Any, start: int, length: int) -> None:
        nonlocal seen
        of_a_picture = isinstance(value, dict) and "masks" in value
        of_a_mask = isinstance(value, dict) and "segmentation" in value and not of_a_picture
        if not (of_a_picture or of_a_mask) or (own if of_a_picture else seen):
            raise ImageFailure(
                f"byte {start}: expected masks with a segmentation alone, or pictures with their masks alone"
            )
        if len(own) == MAX_MASKS:
            raise ImageFailure(f"more than {MAX_MASKS} masks of one picture")
        if of_a_picture:
            seen = True
            each(of_llmseg(value))
        else:
            own.append(value)

    read_list(path, element)
    if not seen:
        each(Foreign(path.stem, own))


def _sa1b(value: Any) -> Foreign:
    image = field(value, "image", dict)
    name = text(image.get("file_name"), "file_name")
    masks = field(value, "annotations", list)
    size = [image.get("height"), image.get("width")]
    wrong = next((mask for mask in masks if _size(mask) not in (None, size)), None)
    if wrong is not None and None not in size:
        return Foreign(name, trouble=f"a mask has the size {_size(wrong)!s:.40}, expected {size!s:.40} of the image")
    return Foreign(name, masks)


def _size(mask: Any) -> Any:
    segmentation = mask.get("segmentation") if isinstance(mask, dict) else None
    return segmentation.get("size") if isinstance(segmentation, dict) else None


def of_llmseg(value: Any) -> Foreign:
    """An element of LLM-Seg's files: ``image``, ``target_size`` [height, width], ``masks``. An error becomes its ``trouble``."""
    name = value.get("image") if isinstance(value, dict) else None
    try:
        name = text(name, "image")
        height, width = field(value, "target_size", list)
        if not all(isinstance(side, int) and not isinstance(side, bool) for side in (height, width)):
            raise ValueError
        return Foreign(name, field(value, "masks", list), (height, width))
    except ImageFailure as error:
        return Foreign(name if isinstance(name, str) else "", trouble=str(error))
    except ValueError:
        return Foreign(str(name), trouble=f"target_size is {value['target_size']!s:.40}, expected [height, width] px")
