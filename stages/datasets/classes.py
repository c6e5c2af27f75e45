"""What the values of label maps mean: names for the published sets, and for the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stages.datasets.base import DatasetError
from stages.datasets.jsonfile import field, read_json, text
from stages.datasets.once import Once
from stages.datasets.params import SemanticOptions
from stages.images import ImageFailure, inside, read_file
from stages.names import did_you_mean

_PUBLISHED = Path(__file__).parent / "names"
_MAX_NAMES = 256
_MAX_NAMES_BYTES = 2**20


@dataclass(frozen=True)
class Classes:
    """names: value -> what its pixels show. void: values of pixels that no metric counts."""

    names: Mapping[int, str]
    void: frozenset[int]


def names_file(options: SemanticOptions) -> str | None:
    """The file below the data set's folder that names the values; None: this project has its own copy of the published names."""
    if options.labels == "mapillary":
        return f"config_{options.version}.json"
    return options.names if options.labels == "own" else None


def classes_of(root: Path, options: SemanticOptions) -> Classes:
    """What the values mean; raises ImageFailure if a data set's own names are missing or broken.

    Raises:
        DatasetError: ``drop`` has a name that the data set does not have.
    """
    file = names_file(options)
    if file is None:
        return _published(options.labels, options.drop)
    names = _OF_SET.get(root, (file,), options.labels)
    return _without(dict(enumerate(names)), set(options.void) if options.labels == "own" else set(), options.drop)


def _without(names: dict[int, str], void: set[int], drop: Sequence[str]) -> Classes:
    unknown = [name for name in drop if name not in names.values()]
    if unknown:
        raise DatasetError(
            f"drop: found {unknown[0]!r}, but this data set has no label of that name{did_you_mean(unknown[0], names.values())}"
        )
    void = void | {value for value, name in names.items() if name in drop}
    return Classes({value: name for value, name in names.items() if value not in void}, frozenset(void))


@lru_cache(maxsize=4)
def _published(labels: str, drop: tuple[str, ...]) -> Classes:
    """The classes as dvlab-research/LISA's utils/sem_seg_dataset.py reads the values.

    In ADE20K 0 is void, and any other value is one more than the index of its name in the list. In COCO-Stuff a value is the
    index, 255 is void, and so are the names with a dash, which subdivide other names.
    """
    names = (_PUBLISHED / f"{labels}.txt").read_text(encoding="utf-8").splitlines()
    if labels == "ade20k":
        return _without(dict(enumerate(names, start=1)), {0}, drop)
    return _without(dict(enumerate(names)), {255}, (*(name for name in names if "-" in name), *drop))


def _parse(root: Path, files: tuple[str, ...], labels: str) -> tuple[str, ...]:
    (file,) = files
    try:
        names = _of_mapillary(root, file) if labels == "mapillary" else _of_lines(root, file)
        if not 0 < len(names) <= _MAX_NAMES:
            raise ImageFailure(
                f"has {len(names)} names, expected 1 to {_MAX_NAMES}, as a label map has values of 8 bits"
            )
    except ImageFailure as error:
        raise ImageFailure(f"{file}: {error}") from error
    return names


def _of_mapillary(root: Path, file: str) -> tuple[str, ...]:
    document, _ = read_json(root, file)
    labels = field(document, "labels", list)
    return tuple(text(field(each, "readable", str), "'readable'").lower() for each in labels)


def _of_lines(root: Path, file: str) -> tuple[str, ...]:
    try:
        lines = read_file(inside(root, file), _MAX_NAMES_BYTES).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ImageFailure("text is not UTF-8") from error
    names: list[str] = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name in names:
            found = f"line {number} is empty" if not name else f"line {number} has {name!r} again"
            raise ImageFailure(f"{found}, expected one name per line, all different: the first line names value 0")
        names.append(name)
    return tuple(names)


_OF_SET = Once(_parse)
