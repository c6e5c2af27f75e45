"""Opens a split and reads records. numpy, pyarrow and google-crc32c only; no zarr, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from .errors import IncompleteColumnError, StoreError
from .format.layout import find_columns, find_links, missing_split, place_of, store_dir
from .format.lineage import Lineage, is_unused
from .format.names import both_names, find_name, proposer_of, proposers_of, with_proposer
from .internals import collection_paused
from .read.array import CHECKS
from .read.column import open_column
from .read.forks import Lazy
from .read.open_columns import OpenColumns
from .read.options import flag, index_of, listed, meant, whole
from .read.record import Record, Records
from .read.table import DEFAULT_BYTES, TableCache
from .stream.batches import Batch, BatchReader, Samples
from .stream.candidates import Candidates
from .stream.request import Request, named
from .stream.stream import stream


class Split(OpenColumns):
    """A split of a data set in the store: a sequence of :class:`Record`, addressed by image_index or image_id."""

    def __enter__(self) -> Split:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, key: int | str) -> Record: ...

    @overload
    def __getitem__(self, key: slice) -> Records: ...

    def __getitem__(self, key: int | str | slice) -> Record | Records:
        """The record of an image, by image_index or image_id; of a slice, a sequence of records, read when asked for.

        Raises:
            IndexError, KeyError: there is no such image.
            TypeError: the key is none of these.
        """
        if isinstance(key, slice):
            return Records(self, range(len(self))[key])
        if isinstance(key, str):
            if key not in self._numbers:
                raise KeyError(f"no image {key!r} in {self.name}; its {len(self)} images are in split.image_ids")
            key = self._numbers[key]
        number = index_of(key, "an image_index, an image_id or a slice")
        if not -len(self) <= number < len(self):
            raise IndexError(f"image_index {number} is outside 0..{len(self) - 1}")
        return Record(self, number % len(self))

    @Lazy
    def _numbers(self) -> dict[str, int]:
        return {image_id: number for number, image_id in enumerate(self.image_ids)}

    def of_proposer(self, name: str) -> Split:
        """The same open columns, with that proposer's for names that leave the proposer out; its files are shared.

        Raises:
            StoreError: no column of such a proposer is open; the message names those that are.
        """
        _check_proposer(name, self.proposers, self.dataset, self.split)
        return Split(self.dataset, self.split, self.columns, self.images_root, self.tables, name)

    def batch(
        self,
        images: Sequence[int | str],
        columns: str | Sequence[str] | Mapping[str, str],
        *,
        ragged: bool = False,
        candidates: Candidates | int | None = None,
    ) -> Batch:
        """One batch of the images asked for, by image_index or image_id, in that order. The rest is as in :meth:`stream`.

        Raises:
            FailedImageError: one of them failed in a column that is read.
        """
        request = Request([self], named(columns), False, Candidates.of(candidates))
        numbers = [self[image].image_index for image in images]
        for name in ("images", *request.needed):
            for number in numbers:
                self.column(name).require_ok(number)
        samples = Samples([0] * len(numbers), numbers, [-1] * len(numbers))
        return BatchReader(request, flag("ragged", ragged)).read(samples)

    stream = stream


@collection_paused()
def open_split(
    store: str | Path,
    dataset: str,
    split: str,
    images_root: str | Path | None = None,
    columns: str | Sequence[str] | None = None,
    allow_incomplete: bool = False,
    check: str = "always",
    table_cache_bytes: int = DEFAULT_BYTES,
    coherence: str = "error",
    proposer: str | None = None,
) -> Split:
    """Open a split for reading.

    Args:
        store: folder of the store.
        dataset, split: which split.
        images_root: the data set's folder, if pixels are wanted; the store itself knows only relative paths.
        columns: open this one or these alone (``images`` always comes along); default: every column there is, but for those of
            which nothing was computed, and for unfinished ones that the parameters no longer name.
        allow_incomplete: give the shards that are there instead of raising.
        check: when the bytes of an image (its vectors, its pixels) are held against their checksums: ``always``, at
            ``first-touch`` in a process, or ``never``. Identity, records and indices of files are always checked, and tables
            whenever they are decoded.
        table_cache_bytes: this much memory may decoded tables take in a process.
        coherence: a column was computed from others. Where one of those is in the store and is not the one it was computed
            from: ``error``, or ``warn``. What is not in the store is not compared.
        proposer: whose masks ``masks``, ``mask_embeddings/NAME`` and other names without a proposer stand for. Without
            ``columns``, those of other proposers are not opened. Not needed where the split has one proposer.

    Raises:
        StoreError: there is no such split, column or proposer, several proposers have the column, or there is a link where a
            column would be.
        IncompleteColumnError: a column is unfinished, or does not belong to one that it was computed from; names the shards
            and the reason.
        DamagedStoreError: bytes are not what was committed, or a column lost its ``column.json``.
    """
    import pyarrow.parquet  # noqa: F401  # here, as no thread may be in the middle of importing it when a fork comes

    if check not in CHECKS:
        raise ValueError(f"found check={check!r}, expected one of {', '.join(CHECKS)}")
    if coherence not in ("error", "warn"):
        raise ValueError(f"found coherence={coherence!r}, expected error or warn")
    store = store_dir(store)
    names = find_columns(store, dataset, split)
    if "images" not in names:
        raise missing_split(store, dataset, split)
    if columns is None and (links := find_links(store, dataset, split)):
        raise StoreError(
            f"{links[0]}: found a link, expected a folder: links in a store are not followed, so its columns would be left out; "
            "put the folder itself there, or name the columns to open with columns=[...]"
        )
    if proposer is not None:
        _check_proposer(proposer, proposers_of(names), dataset, split)
    lineage = Lineage(store, summaries=True)
    asked = ["images", *([] if columns is None else listed(columns))]
    whole_names = asked if proposer is None else [with_proposer(name, proposer) for name in asked]
    found = (find_name(name, names, proposer) or full for name, full in zip(asked, whole_names, strict=True))
    wanted = list(dict.fromkeys(found))
    if columns is None:
        own = [name for name in names if proposer is None or proposer_of(name) in (None, proposer)]
        used = (name for name in own if allow_incomplete or not is_unused(lineage, place_of(dataset, name, split)))
        wanted = list(dict.fromkeys([*wanted, *used]))
    if unknown := sorted(set(wanted) - set(names)):
        hints = "".join(meant(name, both_names(names)) for name in unknown)
        place = place_of(dataset, unknown[0], split)
        raise StoreError(
            f"{dataset}/{split}: no column {', '.join(unknown)}; {hints}found {', '.join(names)}", place=place
        )
    tables = TableCache(whole("table_cache_bytes", table_cache_bytes))
    opened = {
        name: open_column(store, place_of(dataset, name, split), allow_incomplete, lineage, check, tables, coherence)
        for name in wanted
    }
    images = opened["images"].meta
    for name, column in opened.items():
        made_for = (column.meta.images, column.meta.shard_images)
        if not allow_incomplete and made_for != (images.images, images.shard_images):
            raise IncompleteColumnError(
                f"{name} was made for {made_for[0]} images in shards of {made_for[1]}, the split has {images.images} in shards "
                f"of {images.shard_images}",
                place=place_of(dataset, name, split),
            )
    return Split(dataset, split, opened, None if images_root is None else Path(images_root), tables, proposer)


def _check_proposer(name: str, known: Sequence[str], dataset: str, split: str) -> None:
    if name not in known:
        there = ", ".join(known) or "none of any proposer"
        raise StoreError(
            f"{dataset}/{split}: no column of a proposer {name!r}; {meant(name, known)}found {there}",
            place=place_of(dataset, with_proposer("masks", name), split),
            reason="not computed",
        )
