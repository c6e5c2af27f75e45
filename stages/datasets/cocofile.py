"""A file in COCO's form: what it says of each image, and where in the file each image's annotations are.

Annotations are read again from there, image by image: LVIS has 1.27 million of them, whose numbers alone would take gigabytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.datasets.cocopicture import picture_of
from stages.datasets.content import content_of, digest_of
from stages.datasets.jsonfile import text
from stages.datasets.jsonstream import element_at, read_elements
from stages.images import ImageFailure, inside
from stages.names import type_name

MAX_NAME = 1000
"""Largest number of characters in a category's name."""
_DIGEST = 32
_READ = ("id", "category_id", "iscrowd", "segmentation", "bbox")
"""What is read from an annotation later; whether it has an ``instance_id`` is looked at as well."""
OF_NO_IMAGE = "annotation of an image that the file does not list, passed over"


@dataclass(frozen=True, slots=True)
class Category:
    """A line of ``categories``."""

    name: str
    supercategory: str


@dataclass(frozen=True, slots=True)
class Record:
    """A line of ``images``.

    key: its ``id``, as text. image_id: what the store calls it. path: as ``file_name``, in POSIX. height, width: in px, as the
    file states them. negative, open_ended: numbers of the categories in ``neg_category_ids`` and
    ``not_exhaustive_category_ids``. content: the ``content`` of the image's source.
    """

    key: str
    image_id: str
    path: str
    height: Any
    width: Any
    negative: tuple[int, ...]
    open_ended: tuple[int, ...]
    notes: tuple[str, ...]
    content: str = ""


@dataclass(frozen=True)
class CocoFile:
    """A file in COCO's form without its annotations, but with their positions in the file.

    images: by image_id, in file order. categories: numbered by this reader. has_annotations: the key exists, even if empty.
    places: int64 [A, 2], first byte and length of the annotations, by image, then in file order. of_category: int32 [A], -1 for
    an annotation without a category. bounds: int64 [N + 1], where the places of each image begin, and the end.
    """

    images: dict[str, Record]
    categories: dict[int, Category]
    has_annotations: bool
    places: NDArray[np.int64]
    of_category: NDArray[np.int32]
    bounds: dict[str, tuple[int, int]]

    def annotations(self, path: Path, image_id: str) -> Iterator[tuple[dict[str, Any], int]]:
        """The annotations of an image in file order, and the numbers of their categories; ``path`` is that of the file."""
        first, end = self.bounds.get(image_id, (0, 0))
        if first == end:
            return
        with path.open("rb") as file:
            for (start, length), category in zip(
                self.places[first:end].tolist(), self.of_category[first:end].tolist(), strict=True
            ):
                value = element_at(file, start, length)
                if not isinstance(value, dict) or as_key(value.get("image_id")) != self.images[image_id].key:
                    raise ImageFailure(
                        f"byte {start} has another annotation now: the file was changed while it was read"
                    )
                yield value, category


def read_coco(root: Path, files: Sequence[str], ids: str) -> CocoFile:
    """Read a file in COCO's form.

    Args:
        files: the file, relative to ``root``, and, if its categories are in another file, that file.
        ids: the option of that name, ``path`` or ``coco``.

    Raises:
        ImageFailure: a file is not JSON, or does not have this form.
    """
    parts = _Parts(ids)
    wanted = {"images": parts.image, "annotations": parts.annotation, "categories": parts.category}
    categories = wanted.pop("categories") if len(files) > 1 else None
    keys = read_elements(inside(root, files[0]), wanted)
    if "images" not in keys:
        raise ImageFailure(f"key 'images' is missing (found: {', '.join(map(repr, sorted(keys))) or 'none'})")
    if categories is not None:
        try:
            read_elements(inside(root, files[1]), {"categories": categories})
        except ImageFailure as error:
            raise ImageFailure(f"categories in {files[1]}: {error}") from error
    return parts.finished("annotations" in keys)


def as_key(value: Any) -> str | None:
    """An id as text, so that 7, 7.0 and "7" are one id; None: it is no id."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return value.strip() or None if isinstance(value, str) else None


def _key_of(line: Any, place: str) -> str:
    """The ``id`` of a line of ``images`` or ``categories`` as text; ImageFailure where it is no object or has no id."""
    if not isinstance(line, dict):
        raise ImageFailure(f"{place} is {type_name(line)}, expected an object")
    key = as_key(line.get("id"))
    if key is None:
        raise ImageFailure(f"{place}: 'id' is {line.get('id')!r:.40}, expected a number or a text")
    return key


def name_of(annotation: Any, number: int | None = None) -> str:
    """What an annotation is called in messages: by its id, else by its place among the annotations."""
    key = as_key(annotation.get("id")) if isinstance(annotation, dict) else None
    return (
        f"annotation {key:.40}" if key else "an annotation without id" if number is None else f"annotations[{number}]"
    )


class _Parts:
    """What was read so far. Annotations may come before the images and categories that they refer to."""

    def __init__(self, ids: str) -> None:
        self._ids = ids
        self._records: dict[str, Record] = {}
        self._categories: dict[int, Category] = {}
        self._image_numbers: dict[str, int] = {}
        self._category_numbers: dict[str, int] = {}
        self._listed: dict[int, str] = {}
        self._of_image, self._of_category, self._places = array("i"), array("i"), array("q")
        self._said = bytearray()
        """A digest of each image's annotations so far, by the image's number."""

    def image(self, value: Any, _start: int, _length: int) -> None:
        place = f"images[{len(self._records)}]"
        key = _key_of(value, place)
        try:
            record = self._record(key, value)
        except (ImageFailure, ValueError) as error:
            raise ImageFailure(f"{place} (id {key:.40}): {error}") from error
        number = self._number(self._image_numbers, key)
        other = self._listed.get(number)
        if other is not None:
            raise ImageFailure(
                f"two images have the id {key:.40}: {self._records[other].path!r:.80} and {record.path!r:.80}; expected one each"
            )
        if record.image_id in self._records:
            first = self._records[record.image_id]
            raise ImageFailure(
                f"the images {first.key:.40} ({first.path:.60}) and {key:.40} ({record.path:.60}) would both be the image "
                f"{record.image_id!r:.60}: put their annotations under one id, or rename one"
            )
        self._records[record.image_id] = record
        self._listed[number] = record.image_id

    def category(self, value: Any, _start: int, _length: int) -> None:
        place = f"categories[{len(self._categories)}]"
        key = _key_of(value, place)
        name = text(value.get("name"), f"{place}: 'name'").strip()
        if not name:
            raise ImageFailure(f"{place}: 'name' is empty, expected what to ask for")
        if len(name) > MAX_NAME:
            raise ImageFailure(f"{place}: 'name' has {len(name)} characters, expected at most {MAX_NAME}")
        number = self._number(self._category_numbers, key)
        if number in self._categories:
            raise ImageFailure(
                f"two categories have the id {key:.40}: {self._categories[number].name!r:.40} and {name!r:.40}; expected one each"
            )
        above = value.get("supercategory")
        self._categories[number] = Category(name, above if isinstance(above, str) else "")

    def annotation(self, value: Any, start: int, length: int) -> None:
        if not isinstance(value, dict):
            raise ImageFailure(f"{name_of(value, len(self._of_image))} is {type_name(value)}, expected an object")
        image, category = as_key(value.get("image_id")), as_key(value.get("category_id"))
        if image is None:
            found = f"{value['image_id']!r:.40}" if "image_id" in value else "missing"
            raise ImageFailure(
                f"{name_of(value, len(self._of_image))}: 'image_id' is {found}, expected the id of an image"
            )
        number = self._number(self._image_numbers, image)
        said = tuple(map(value.get, _READ))
        self._said += bytes(max(0, _DIGEST * (number + 1) - len(self._said)))
        place = slice(_DIGEST * number, _DIGEST * (number + 1))
        self._said[place] = digest_of(bytes(self._said[place]), said, "instance_id" in value)
        self._of_image.append(number)
        self._of_category.append(-1 if category is None else self._number(self._category_numbers, category))
        self._places.append(start)
        self._places.append(length)

    def finished(self, has_annotations: bool) -> CocoFile:
        """What was read, the annotations by image."""
        order_of = np.full(len(self._image_numbers), len(self._listed), np.int64)
        order_of[list(self._listed)] = np.arange(len(self._listed))
        image = order_of[np.array(self._of_image, np.int64)]
        lost = int(np.count_nonzero(image == len(self._listed)))
        if lost and lost == image.size:
            raise ImageFailure(
                f"none of the {lost} annotations is of an image in 'images': found the image_id "
                f"{next(iter(self._image_numbers.keys() - {each.key for each in self._records.values()}))!r:.40}"
            )
        if len(image) and not self._categories:
            raise ImageFailure("no categories: expected a key 'categories', a list of objects with 'id' and 'name'")
        records = dict(self._records)
        if lost:
            first = next(iter(records.values()))
            records[first.image_id] = replace(first, notes=(*first.notes, *(OF_NO_IMAGE,) * lost))
        order = np.argsort(image, kind="stable")
        ends = np.searchsorted(image[order], np.arange(len(records) + 1)).tolist()
        found = CocoFile(
            images=records,
            categories=self._categories,
            has_annotations=has_annotations,
            places=np.array(self._places, np.int64).reshape(-1, 2)[order],
            of_category=np.array(self._of_category, np.int32)[order],
            bounds={each: (ends[i], ends[i + 1]) for i, each in enumerate(records) if ends[i] < ends[i + 1]},
        )
        keys = list(self._category_numbers)
        for image_id, record in records.items():
            start, end = found.bounds.get(image_id, (0, 0))
            records[image_id] = replace(
                record, content=self._content(record, set(found.of_category[start:end].tolist()), keys)
            )
        return found

    def _content(self, record: Record, used: set[int], keys: Sequence[str]) -> str:
        """The ``content`` of a source. used: numbers of the categories of its annotations. keys: the ids of all, by number."""
        number = self._image_numbers[record.key]
        stated = (record.key, record.height, record.width, record.notes)
        lists = [[keys[each] for each in listed] for listed in (record.negative, record.open_ended)]
        named = {
            keys[each]: (self._categories[each].name, self._categories[each].supercategory)
            for each in used.union(record.negative, record.open_ended)
            if each in self._categories
        }
        said = bytes(self._said[_DIGEST * number : _DIGEST * (number + 1)])
        return content_of(said, stated, lists, sorted(named.items()))

    def _record(self, key: str, value: dict[str, Any]) -> Record:
        image_id, path, notes = picture_of(key, value, self._ids)
        return Record(
            key=key,
            image_id=image_id,
            path=path,
            height=_plain(value.get("height")),
            width=_plain(value.get("width")),
            negative=self._numbers(value, "neg_category_ids"),
            open_ended=self._numbers(value, "not_exhaustive_category_ids"),
            notes=notes,
        )

    def _numbers(self, value: dict[str, Any], name: str) -> tuple[int, ...]:
        """Numbers of the categories that a list of an image names, each once."""
        found = value.get(name)
        if found is None:
            return ()
        keys = [as_key(each) for each in found] if isinstance(found, list) else [None]
        known = [key for key in keys if key is not None]
        if len(known) < len(keys):
            raise ImageFailure(f"{name!r} is {found!r:.60}, expected a list of the ids of categories")
        return tuple(dict.fromkeys(self._number(self._category_numbers, key) for key in known))

    @staticmethod
    def _number(numbers: dict[str, int], key: str) -> int:
        return numbers.setdefault(key, len(numbers))


def _plain(value: Any) -> Any:
    """A stated size unchanged, if it is one; else a short text that says what was found."""
    return value if value is None or isinstance(value, int | float) else f"{value!r:.20}"
