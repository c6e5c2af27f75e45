"""Questions that ``python cli.py questions`` made (:mod:`stages.questions`): ``train.jsonl``, ``val.jsonl``, ..., a line per image.

A line: ``{"image_id", "path", "height_px", "width_px", "instances": [{"label", "counts"}], "requests": [...], "targets": [...]}``.
``path`` is the picture's path in the data set that holds it. Masks are COCO's compressed run lengths in the frame of the
upright image, as the store has them.

A target: ``texts``, ``is_sentence``, ``kind``, ``answer``, ``instances`` (numbers of the image's), ``absent``, ``correction``,
``incomplete`` and ``made``. Its mask is the union of its instances.

How it was made: ``{"request", "verdicts": [{"step", "model", "said", "response"}], "usd"}``. ``request`` is the index, in the
line's ``requests``, of the request that the question came from: ``{"prompt", "response", "model"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages.datasets.base import Annotation, Expected, Instance, Source, Target
from stages.datasets.content import content_of
from stages.datasets.jsonfile import MAX_SET_BYTES, field, text
from stages.datasets.once import Once
from stages.datasets.params import GeneratedOptions
from stages.datasets.segments import read_counts
from stages.datasets.setfile import MEND, parsed
from stages.images import ImageFailure, inside, read_file
from store import rle

DEFAULTS = GeneratedOptions()
KIND = "generated"
"""Kind of a target that does not state one."""


class _Row(NamedTuple):
    """A line of the file: the picture's path, what the line says, and the digest of that."""

    path: str
    said: Mapping[str, Any]
    content: str


def list_sources(root: Path, split: str, options: GeneratedOptions = DEFAULTS) -> list[Source]:
    """Give a source for each image in the split's file, sorted by image_id.

    Raises DatasetError if the split has no file, a line does not have this form, or an image has two lines.
    """
    file = f"{split}.jsonl"
    expected = "what `python cli.py questions` writes, a line of JSON for each image"
    rows = parsed(_ROWS, root, file, options, expected, f"run that first, or {MEND}")
    return [Source(image_id, row.path, (file,), content=row.content) for image_id, row in sorted(rows.items())]


def listed_from(root: Path, split: str, options: GeneratedOptions = DEFAULTS) -> tuple[str, ...]:
    """The file that alone decides what is listed."""
    return (f"{split}.jsonl",)


def contents(root: Path, sources: Sequence[Source], options: GeneratedOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources as their file says now."""
    rows = _ROWS.get(root, sources[0].annotations, options)
    return [rows[each.image_id].content if each.image_id in rows else "missing" for each in sources]


def expected(split: str, options: GeneratedOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The file of a split."""
    return (Expected("questions", (f"{split}.jsonl",)),)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: GeneratedOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image in file order. Raises ImageFailure, naming the target, if one is unusable."""
    file = source.annotations[0]
    row = _ROWS.get(root, (file,), options).get(source.image_id)
    if row is None:
        raise ImageFailure(f"{file}: {source.image_id!r} is not there any more")
    size = (field(row.said, "height_px", int), field(row.said, "width_px", int))
    if size != (height_px, width_px):
        raise ImageFailure(
            f"{file}: masks of {size[1]} x {size[0]} px, the picture has {width_px} x {height_px} px; make the questions again"
        )
    instances = tuple(_instance(number, each, size) for number, each in enumerate(field(row.said, "instances", list)))
    requests = field(row.said, "requests", list)
    targets = []
    for number, each in enumerate(field(row.said, "targets", list)):
        try:
            targets.append(_target(f"{source.image_id}/{number}", each, instances, requests, size))
        except ImageFailure as error:
            raise ImageFailure(f"{file}: target {number}: {error}") from error
    return Annotation(instances, tuple(targets))


def _instance(number: int, value: Any, size: tuple[int, int]) -> Instance:
    try:
        counts, _ = read_counts({"size": list(size), "counts": field(value, "counts", str)}, *size)
    except ImageFailure as error:
        raise ImageFailure(f"instances[{number}]: {error}") from error
    if not rle.area(counts):
        raise ImageFailure(f"instances[{number}]: a mask without a pixel")
    return Instance(counts, text(field(value, "label", str), "'label'"))


def _target(
    name: str, value: Any, instances: Sequence[Instance], requests: Sequence[Any], size: tuple[int, int]
) -> Target:
    numbers = tuple(field(value, "instances", list))
    if not all(isinstance(each, int) and 0 <= each < len(instances) for each in numbers):
        raise ImageFailure(f"'instances' is {list(numbers)!r:.60}, expected numbers from 0 to {len(instances) - 1}")
    texts = tuple(text(each, "a text") for each in field(value, "texts", list))
    if not texts or not all(each.strip() for each in texts):
        raise ImageFailure("'texts' is empty or holds an empty text; expected the question and its other wordings")
    absent = field(value, "absent", bool)
    if absent == bool(numbers):
        raise ImageFailure("expected instances, or absent: true where the picture shows nothing of the kind")
    said = [instances[each].segmentation for each in numbers]
    return Target(
        target_id=name,
        instances=numbers,
        texts=texts,
        is_sentence=field(value, "is_sentence", bool),
        kind=_or_none(value, "kind") or KIND,
        answer=_or_none(value, "answer"),
        segmentation=said[0] if len(said) == 1 else rle.union(said, *size),
        ignore=rle.union([], *size),
        absent=absent,
        correction=_or_none(value, "correction"),
        incomplete=field(value, "incomplete", bool),
        made=_made(value["made"], requests) if value.get("made") is not None else None,
    )


def _made(value: Any, requests: Sequence[Any]) -> dict[str, Any]:
    """A value of :data:`store.format.schema.MADE`."""
    number, usd = field(value, "request", int), value.get("usd", 0.0)
    if not 0 <= number < len(requests):
        raise ImageFailure(f"'request' is {number}, expected a number from 0 to {len(requests) - 1}")
    if not isinstance(usd, int | float) or isinstance(usd, bool):
        raise ImageFailure(f"'usd' is {usd!r:.40}, expected a number")
    asked = {key: text(field(requests[number], key, str), repr(key)) for key in ("prompt", "response", "model")}
    verdicts = [
        {key: _or_none(each, key) for key in ("step", "model", "said", "response")}
        for each in field(value, "verdicts", list)
        if isinstance(each, dict)
    ]
    return {**asked, "verdicts": verdicts, "usd": float(usd)}


def _or_none(value: Any, key: str) -> str | None:
    found = value.get(key)
    return None if found is None else text(found, repr(key))


def _parse(root: Path, files: tuple[str, ...], _options: GeneratedOptions) -> dict[str, _Row]:
    """image_id -> its line."""
    rows: dict[str, _Row] = {}
    for number, line in enumerate(read_file(inside(root, files[0]), MAX_SET_BYTES).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            said = _json(line)
            image_id = text(field(said, "image_id", str), "'image_id'")
            row = _Row(text(field(said, "path", str), "'path'"), said, content_of(said))
            inside(root, row.path)
        except ImageFailure as error:
            raise ImageFailure(f"line {number}: {error}") from error
        if image_id in rows:
            raise ImageFailure(f"line {number}: a second line of the image {image_id!r}")
        rows[image_id] = row
    return rows


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ImageFailure(f"not JSON: {error}") from error


_ROWS = Once(_parse)
