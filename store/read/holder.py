"""Finds the columns that a borrower lacks at the holder, and opens them for the borrower's images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import DamagedStoreError, IncompleteColumnError, StoreError
from ..forks import Lazy
from ..format.layout import column_dir, find_columns, parts_of, place_of
from ..format.lineage import Lineage, is_unused, no_column
from ..format.names import is_of_pictures
from .borrowed import AnyColumn, Borrowed, Borrowing
from .column import Column, open_column
from .table import TableCache


@dataclass(frozen=True)
class Opener:
    """How the columns of a split are opened: the options of :func:`store.open_split`, and the look at the store they share."""

    lineage: Lineage
    allow_incomplete: bool = False
    check: str = "always"
    tables: TableCache | None = None
    coherence: str = "error"

    def open(self, place: str, shards: Sequence[int] | None = None) -> Column:
        """Open a column, or these shards of it. Raises as :func:`store.open_split`."""
        look = self.lineage
        return open_column(
            look.store, place, self.allow_incomplete, look, self.check, self.tables, self.coherence, shards
        )


class NotThere(NamedTuple):
    """Why a borrower can read nothing of its holder, and the place that it is about."""

    what: str
    place: str


class Holder:
    """The data set that holds the images of a split, seen from that split.

    Args:
        images: the split's own column ``images``, which names the holder.
        asked: the columns that are looked for at a web server (:func:`store.format.layout.find_columns`).

    ``why_not`` says why nothing can be borrowed: the holder, or one of its splits, is not in the store. Else it is None.
    ``places`` are the holder's splits that have any of the images, as (data set, split).

    Raises:
        StoreError: the holder is itself a borrower.
        DamagedStoreError: the images do not say where they are.
    """

    def __init__(self, opener: Opener, images: Column, asked: Sequence[str] = ()) -> None:
        self.opener, self._asked = opener, asked
        dataset, _, split = parts_of(images.place)
        self.borrowing = Borrowing.of(f"{dataset}/{split}", images)
        self.name, self.splits = self.borrowing.holder, self.borrowing.splits
        self.places = [(self.name, split) for split in self.splits]
        self.why_not = self._find()
        if self.why_not is None:
            self._prove()

    @Lazy
    def names(self) -> list[str]:
        """Names of the columns of pictures that any of the holder's splits has, sorted."""
        return sorted({name for found in self._found.values() for name in found})

    @Lazy
    def _found(self) -> dict[str, list[str]]:
        store, splits = self.opener.lineage.store, self.splits if self.why_not is None else ()
        return {
            split: [*filter(is_of_pictures, find_columns(store, self.name, split, self._asked))] for split in splits
        }

    def is_unused(self, column: str) -> bool:
        """Whether a column is a leftover in every split that has it: it must not keep anyone from opening the whole split."""
        places = [place_of(self.name, column, split) for split, found in self._found.items() if column in found]
        return all(is_unused(self.opener.lineage, place) for place in places)

    def open(self, column: str) -> Borrowed:
        """Open a column of the holder for the borrower's images; only the shards that they lie in have to be there.

        Raises:
            StoreError: one of the splits has no such column, their arrays are not of one layout, or the holder is not there.
            IncompleteColumnError: a shard is not there, not readable or not coherent, or an image was added after the column
                was made.
        """
        if self.why_not is not None:
            raise lacking(self.borrowing.name, column, self.why_not)
        places = {split: place_of(self.name, column, split) for split in self.splits}
        metas = {split: self.opener.lineage.meta(place) for split, place in places.items()}
        first = next((meta for meta in metas.values() if meta is not None), None)
        columns = []
        for split, place in places.items():
            meta = metas[split]
            if meta is not None:
                columns.append(self._open_part(split, place, self.borrowing.shards(split, meta.shard_images)))
            elif self.opener.allow_incomplete and first is not None:
                columns.append(Column(column_dir(self.opener.lineage.store, place), place, first, ()))
            else:
                raise no_column(self.opener.lineage.store, place)
        self._require_alike(columns)
        dataset, split = self.borrowing.name.split("/")
        return Borrowed(place_of(dataset, column, split), self.borrowing, columns)

    def _open_part(self, split: str, place: str, shards: Sequence[int]) -> Column:
        column = self.opener.open(place, shards)
        last, image = self.borrowing.last(split)
        if last >= column.meta.images and not self.opener.allow_incomplete:
            raise IncompleteColumnError(
                f"{place} was made for {column.meta.images} images, image {image} of {self.borrowing.name} is image {last} there "
                f"(shard {last // column.meta.shard_images}); compute it again, or leave the column out with columns=[...]",
                place=place,
                shard=last // column.meta.shard_images,
                reason="images were added since",
            )
        return column

    def _require_alike(self, columns: Sequence[Column]) -> None:
        one = columns[0]
        for other in columns[1:]:
            if other.meta.array != one.meta.array:
                raise StoreError(
                    f"{self.borrowing.name} has images in {one.place} and {other.place}, whose arrays have different layouts: "
                    f"found {one.meta.array} and {other.meta.array}",
                    place=other.place,
                )
            if other.meta.fingerprint != one.meta.fingerprint:
                error = IncompleteColumnError(
                    f"{self.borrowing.name} has images in {one.place} and {other.place}, which were computed with different "
                    "parameters; compute one of them again, or leave the column out with columns=[...]",
                    place=other.place,
                    reason="computed with other parameters",
                )
                if self.opener.coherence == "error" and not self.opener.allow_incomplete:
                    raise error
                warnings.warn(str(error), stacklevel=2)

    def _find(self) -> NotThere | None:
        """Why the holder cannot be looked at; None where it can."""
        look = self.opener.lineage
        if not self.splits:
            return NotThere(f"none of its images is in {self.name}", self.borrowing.images.place)
        for split in self.splits:
            place = place_of(self.name, "images", split)
            meta = look.meta(place)
            if meta is None:
                error = no_column(look.store, place)
                if isinstance(error, DamagedStoreError):
                    raise error
                what = f"its images are those of {self.name}, which is not in this store: found no {place}"
                return NotThere(what, place)
            if meta.holder is not None:
                raise StoreError(
                    f"{self.borrowing.name}: its images are those of {self.name}, which has images of {meta.holder}: "
                    "expected a data set that holds image files",
                    place=place,
                )
        return None

    def _prove(self) -> None:
        """Compare what the images were indexed from with what is there; where that differs, their rows are compared when read."""
        look, sizes, contents, places = self.opener.lineage, {}, {}, {}
        for split in self.splits:
            place = places[split] = place_of(self.name, "images", split)
            meta = look.meta(place)
            assert meta is not None
            sizes[split] = meta.shard_images
            contents[split] = {
                shard: look.content(place, shard) for shard in self.borrowing.shards(split, meta.shard_images)
            }
        self.borrowing.prove(contents, sizes)
        if not self.borrowing.all_proved:
            opener = Opener(look, True, self.opener.check, self.opener.tables, "warn")
            parts = {split: opener.open(places[split], list(contents[split])) for split in self.splits}
            self.borrowing.compare_with(parts)


def lacking(split: str, column: str, why: NotThere) -> StoreError:
    """The error for a column of pictures that a borrower lacks because its holder is not there."""
    return StoreError(f"{split}: no column {column}: {why.what}", place=why.place, reason="its holder is not there")


def open_place(store: Path, place: str) -> AnyColumn:
    """Open one column by its place, of a split that borrows it as well. Raises as :func:`store.open_split`."""
    opener = Opener(Lineage(store, summaries=True))
    dataset, column, split = ("means", "", "") if place.startswith("means/") else parts_of(place)
    if column and is_of_pictures(column) and is_unused(opener.lineage, place):
        images = opener.lineage.meta(place_of(dataset, "images", split))
        if images is not None and images.holder is not None:
            return Holder(opener, opener.open(place_of(dataset, "images", split))).open(column)
    return opener.open(place)
