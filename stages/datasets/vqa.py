"""Conversations about pictures: LLaVA-Instruct-150k, and LLaVA-v1.5's mix665k.

One file, a list of ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}]}``. A record is a target without a
mask, and all of its turns stand in it. ``<image>`` is removed from every turn, as training puts it in front of the first one.
As in dvlab-research/LISA, a first turn that is not a human's is dropped.

mix665k has pictures from five sources, distinguished by the start of ``image``. A data set borrows from only one holder, so
``under`` picks a source. Records without ``image`` are about text alone. They are left out, as every row of a data set is a
picture; a note on the first picture says how many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.datasets.base import Annotation, DatasetError, Expected, Source, Target
from stages.datasets.content import Rows, content_of
from stages.datasets.ids import coco_id_of, path_id
from stages.datasets.jsonfile import field, text
from stages.datasets.jsonstream import element_at, read_list
from stages.datasets.once import Once
from stages.datasets.params import VqaOptions
from stages.datasets.setfile import parsed
from stages.images import ImageFailure, check_inside, inside
from stages.names import type_name
from store import rle

DEFAULTS = VqaOptions()
SPLIT = "train"
"""The only split that such a file has."""
_SPEAKERS = ("human", "gpt")
_IMAGE = "<image>"


@dataclass
class _Records:
    """images: image_id -> its records, with the path below ``under``.

    without: how many records have no picture. others: how many have a picture of another source. first: the image_id that is
    listed first.
    """

    images: dict[str, Rows]
    without: int = 0
    others: int = 0
    first: str = ""

    def content(self, image_id: str) -> str:
        """The ``content`` of a source. For the first source it includes the note about what is left out."""
        if image_id not in self.images:
            return "missing"
        return content_of(self.images[image_id].digest, self.without if image_id == self.first else 0)


def list_sources(root: Path, split: str, options: VqaOptions = DEFAULTS) -> list[Source]:
    """Give a source for each picture that records are about, sorted by image_id.

    Raises DatasetError where the split is not ``train``, where the file is missing or not a list of records, where no picture
    is ``under`` this folder, or where an image does not have COCO's name although images are called by their COCO number.
    """
    if split != SPLIT:
        raise DatasetError(f"found the split {split!r}, expected {SPLIT}: {options.file} is one split")
    records = _records(root, options)
    if not records.images:
        raise DatasetError(
            f"{root / options.file}: no record has an image under {options.under!r} ({records.others} have another one, "
            f"{records.without} none); set under of the data set in section data of the params"
        )
    return [
        Source(image_id, f"{options.under}{rows.path}", (options.file,), content=records.content(image_id))
        for image_id, rows in sorted(records.images.items())
    ]


def listed_from(root: Path, split: str, options: VqaOptions = DEFAULTS) -> tuple[str, ...]:
    """The file that alone decides what is listed."""
    return (options.file,)


def contents(root: Path, sources: Sequence[Source], options: VqaOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources as the file says now."""
    records = _records(root, options)
    return [records.content(source.image_id) for source in sources]


def expected(split: str, options: VqaOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The file of records."""
    return (Expected("conversations", (options.file,)),)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: VqaOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one for each record, in file order.

    Raises ImageFailure, naming the record, where a key is missing or of another type, where turns of human and gpt do not
    alternate, or where a turn is empty.
    """
    records = _RECORDS.get(root, (options.file,), (options.under, options.ids))
    if source.image_id not in records.images:
        raise ImageFailure(f"{options.file}: {source.path!r} is not there any more")
    nothing = rle.union([], height_px, width_px)
    targets: list[Target] = []
    with inside(root, options.file).open("rb") as opened:
        for number, start, length in records.images[source.image_id].places:
            record = element_at(opened, start, length)
            try:
                turns = _turns(field(record, "conversations", list))
            except ImageFailure as error:
                raise ImageFailure(f"{options.file}: record {_name(record, number)}: {error}") from error
            targets.append(
                Target(
                    target_id=f"{source.image_id}/{len(targets)}",
                    instances=(),
                    texts=turns[:1],
                    is_sentence=True,
                    kind="vqa",
                    answer=turns[1],
                    segmentation=nothing,
                    ignore=nothing,
                    turns=turns,
                )
            )
    first = records.without and source.image_id == records.first
    notes = (f"records about text alone, which are left out: {records.without}",) if first else ()
    return Annotation((), tuple(targets), notes)


def _records(root: Path, options: VqaOptions) -> _Records:
    expected = "a list of records with 'id', 'image' and 'conversations'"
    return parsed(_RECORDS, root, options.file, (options.under, options.ids), expected)


def _parse(root: Path, files: tuple[str, ...], options: tuple[str, str]) -> _Records:
    """Positions of the records in the file, by image. Their text is read when the image is, so that memory use stays constant."""
    under, ids = options
    records = _Records({})
    count = 0

    def add(row: Any, start: int, length: int) -> None:
        nonlocal count
        number, count = count, count + 1
        image = row.get("image") if isinstance(row, dict) else None
        try:
            if not isinstance(row, dict):
                raise ImageFailure(f"is {type_name(row)}, expected an object")
            if image is None:
                records.without += 1
            elif isinstance(image, str) and not image.startswith(under):
                records.others += 1
            else:
                name = text(image, "'image'").removeprefix(under)
                image_id = _image_id(name, ids)
                rows = records.images.setdefault(image_id, Rows(name))
                if rows.path != name and ids == "path":
                    raise ImageFailure(f"{rows.path!r} and {name!r} would both be the image {image_id!r}")
                rows.add(number, start, length, (row.get("id"), row.get("conversations")))
        except ImageFailure as error:
            raise ImageFailure(f"record {_name(row, number)}: {error}") from error

    read_list(inside(root, files[0]), add)
    records.first = min(records.images, default="")
    return records


def _image_id(name: str, ids: str) -> str:
    check_inside(name)
    image_id = coco_id_of(name) if ids == "coco" else path_id(name)
    if image_id is None:
        raise ImageFailure(
            f"{name!r} is not a file name of COCO's; set under to the folder of COCO's pictures, or ids to path, in the entry of "
            "the data set"
        )
    return image_id


def _name(row: Any, number: int) -> str:
    return f"{row.get('id', number) if isinstance(row, dict) else number!r:.60}"


def _turns(conversation: list[Any]) -> tuple[str, ...]:
    """Question, answer, question, ..., without ``<image>``."""
    if conversation and field(conversation[0], "from", str) != _SPEAKERS[0]:
        conversation = conversation[1:]
    turns = []
    for number, turn in enumerate(conversation):
        speaker, expected = field(turn, "from", str), _SPEAKERS[number % 2]
        if speaker != expected:
            raise ImageFailure(
                f"turn {number} is from {speaker!r:.20}, expected {expected!r}, as human and gpt take turns"
            )
        said = text(field(turn, "value", str), f"turn {number}").replace(_IMAGE, "").strip()
        if not said:
            raise ImageFailure(f"turn {number} is empty")
        turns.append(said)
    if len(turns) < 2 or len(turns) % 2:
        raise ImageFailure(f"found {len(turns)} turns, expected questions and an answer to each")
    return tuple(turns)


_RECORDS = Once(_parse)
