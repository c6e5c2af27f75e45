"""What an export format consists of: the files for each run (batch) of images, and files about all images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.export.content import PICTURES, WHATS, Asked, Item, Note
from stages.images import ImageFailure

Entries = Callable[[], Iterator[Any]]
"""Gives the entries of all units in order; each call starts again at the first."""


@dataclass
class Unit:
    """What is written for a run of images.

    files: relative name -> bytes. links: relative name -> file elsewhere. entries: JSON values that the format needs when all
    images are done, in order. left_out: images, or parts of them, that the format cannot hold.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, Path] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)
    left_out: list[Note] = field(default_factory=list)


def _nothing(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    return iter(())


@dataclass(frozen=True)
class Format:
    """A line of :data:`stages.export.FORMATS`.

    Args:
        unit: makes the files of a run of images, from what is asked, the images, and the number of the run.
        finish: yields the files that are about all images: relative name and blocks of bytes.
        remarks: lines that say what was lost.
        unit_images: number of images in a run.
        whats: what it can hold, of :data:`WHATS`.
        alone: whether it holds only one of ``whats`` at a time.
        pictures: of :data:`PICTURES`, the default first.
        vectors: whether it holds vectors.
        needs: further columns that each of ``whats`` needs.
    """

    unit: Callable[[Asked, Sequence[Item], int], Unit]
    finish: Callable[[Asked, Entries], Iterator[tuple[str, Iterable[bytes]]]] = _nothing
    remarks: Callable[[Asked, Entries], list[str]] = lambda asked, entries: []
    unit_images: int = 16
    whats: tuple[str, ...] = WHATS
    alone: bool = False
    pictures: tuple[str, ...] = PICTURES
    vectors: bool = False
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def named(unit: Unit, items: Sequence[Item], name_of: Callable[[Item], str]) -> Iterator[tuple[Item, str]]:
    """Each image with its file name. An image that cannot be a file's name is left out, and noted in the unit.

    Args:
        name_of: raises ImageFailure where there is no such name (:mod:`stages.export.names`).
    """
    for item in items:
        try:
            name = name_of(item)
        except ImageFailure as error:
            unit.left_out.append(Note(item.image_id, "image", str(error)))
            continue
        yield item, name


def put_picture(unit: Unit, asked: Asked, item: Item, name: str) -> None:
    """Add the picture of an image to a unit, as a copy or a link; nothing where none is wanted."""
    if item.picture is None:
        return
    if asked.pictures == "link":
        unit.links[name] = item.picture.path
    else:
        unit.files[name] = item.picture.data
