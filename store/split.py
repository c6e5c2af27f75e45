"""Opens a split and reads records. numpy, pyarrow and google-crc32c only; no zarr, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from .addresses import is_web
from .errors import IncompleteColumnError, StoreError
from .forks import Lazy
from .format.layout import (
    find_columns,
    find_links,
    find_splits,
    is_name,
    missing_split,
    place_of,
    store_dir,
    what_exists,
)
from .format.lineage import Lineage, is_unused
from .format.names import (
    both_names,
    find_name,
    is_of_pictures,
    meant,
    proposer_of,
    proposers_of,
    with_proposer,
    without_proposer,
)
from .internals import collection_paused
from .read.array import CHECKS
from .read.borrowed import AnyColumn
from .read.display import split_html
from .read.holder import Holder, NotThere, Opener, lacking
from .read.open_columns import OpenColumns
from .read.options import flag, index_of, listed, whole
from .read.record import Record
from .read.table import DEFAULT_BYTES, TableCache
from .records import Records
from .storage.listing import is_folder
from .stream.batches import Batch, BatchReader, Samples
from .stream.candidates import Candidates
from .stream.request import Request, named
from .stream.stream import stream

_SUGGEST_AMONG = 10_000
"""Among more image_ids than this no similar one is suggested: comparing them takes long."""


class Split(OpenColumns):
    """A split of a data set in the store: a sequence of :class:`Record`, addressed by image_index or image_id."""

    def __enter__(self) -> Split:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        return split_html(self)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, key: int | str) -> Record: ...

    @overload
    def __getitem__(self, key: slice) -> Records: ...

    def __getitem__(self, key: int | str | slice) -> Record | Records:
        """The record of an image, by image_index or image_id; for a slice, a sequence of records, read when asked for.

        Raises:
            IndexError, KeyError: there is no such image.
            TypeError: the key has another type.
        """
        if isinstance(key, slice):
            return Records(self, range(len(self))[key])
        return Record(self, self._number(key))

    def _number(self, key: int | str) -> int:
        """The image_index of an image that is named by it or by its image_id."""
        if isinstance(key, str):
            if key not in self._numbers:
                hint = meant(key, self._numbers) if len(self) <= _SUGGEST_AMONG else ""
                raise KeyError(f"no image {key!r} in {self.name}; {hint}its {len(self)} images are in split.image_ids")
            return self._numbers[key]
        number = index_of(key, "an image_index, an image_id or a slice, such as split[0]")
        if not -len(self) <= number < len(self):
            raise IndexError(f"image_index {number} is outside 0..{len(self) - 1}")
        return number % len(self)

    def select(self, images: Iterable[int | str]) -> Records:
        """The records of these images, by image_index or image_id, in that order. Raises as ``split[...]``."""
        return Records(self, [self._number(image) for image in images])

    def filter(self, keep: Callable[[Record], object]) -> Records:
        """The records for which ``keep(record)`` is true. Only what ``keep`` looks at is read."""
        return self[:].filter(keep)

    @Lazy
    def _numbers(self) -> dict[str, int]:
        return {image_id: number for number, image_id in enumerate(self.image_ids)}

    def of_proposer(self, name: str) -> Split:
        """The same split, in which names without a proposer (``masks``) mean that proposer's. Its open files are shared.

        Raises:
            StoreError: no column of such a proposer is open; the message names those that are.
        """
        _check_proposer(name, self.proposers, self.dataset, self.split, self.why_not_borrowed)
        return Split(self.dataset, self.split, self.columns, self.images_root, self.tables, name, self.why_not_borrowed)

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
        if isinstance(images, str) or not isinstance(images, Iterable):
            raise TypeError(
                f"found images={images!r}, expected a list of image_index or image_id, such as [{images!r}]"
            )
        request = Request([self], named(columns), False, Candidates.of(candidates))
        numbers = [self._number(image) for image in images]
        for name in ("images", *request.needed):
            for number in numbers:
                self.column(name).require_ok(number)
        samples = Samples([0] * len(numbers), numbers, [-1] * len(numbers))
        return BatchReader(request, flag("ragged", ragged)).read(samples)

    stream = stream


def splits(store: str | Path) -> dict[str, list[str]]:
    """What a store holds: data set -> its splits, each of which :func:`open_split` opens.

    Raises:
        StoreError: there is no store; says what is there instead.
    """
    folder = store_dir(store)
    if is_web(folder):
        raise StoreError(f"{folder}: a web server does not list what it holds: open a split by its name")
    found = find_splits(folder) if is_folder(folder) else {}
    if not found:
        raise StoreError(f"{folder} holds no indexed split; {what_exists(folder)}", reason="not indexed")
    return found


@collection_paused()
def open_split(
    store: str | Path,
    dataset: str | None = None,
    split: str | None = None,
    images_root: str | Path | Sequence[str | Path] | None = None,
    columns: str | Sequence[str] | None = None,
    allow_incomplete: bool = False,
    check: str = "always",
    table_cache_bytes: int = DEFAULT_BYTES,
    coherence: str = "error",
    proposer: str | None = None,
) -> Split:
    """Open a split for reading.

    Where the split borrows its images, columns that are made of pixels alone are read from the data set that holds the images; the
    others are its own.

    Args:
        store: folder of the store.
        dataset, split: which split. Both are needed: without one the error says which there are.
        images_root: the folder, or the folders, of the data set that holds the images (for a borrower, of its holder), if pixels
            are wanted; the store itself knows only relative paths.
        columns: open only this one or these (``images`` always comes along); default: every column there is, except for those of
            which nothing was computed, and for unfinished ones that the parameters no longer name.
        allow_incomplete: give the shards that are there instead of raising.
        check: when the bytes of an image (its vectors, its pixels) are checked against their checksums: ``always``, at
            ``first-touch`` in a process, or ``never``. Identity, records and indices of files are always checked, and tables
            whenever they are decoded.
        table_cache_bytes: the memory that decoded tables may take in a process.
        coherence: ``error`` or ``warn`` where the store no longer has the version of another column that a column was computed
            from. Columns that are not in the store are not compared.
        proposer: whose masks ``masks``, ``mask_embeddings/NAME`` and other names without a proposer stand for. Without
            ``columns``, those of other proposers are not opened. Not needed where the split has one proposer.

    Raises:
        StoreError: there is no such split, column or proposer, several proposers have the column, there is a link where a
            column would be, or a column is the holder's, which is not in the store.
        IncompleteColumnError: a column is unfinished, or does not belong to one that it was computed from; names the shards
            and the reason.
        DamagedStoreError: bytes are not what was committed, or a column lost its ``column.json``.
    """
    import pyarrow.parquet  # noqa: F401  # here, so that no thread is in the middle of importing it at a fork

    if check not in CHECKS:
        raise ValueError(f"found check={check!r}, expected one of {', '.join(CHECKS)}")
    if coherence not in ("error", "warn"):
        raise ValueError(f"found coherence={coherence!r}, expected error or warn")
    store = store_dir(store)
    if dataset is None or split is None or not is_name(dataset):
        raise _unnamed(store, dataset, split)
    asked = ["images", *([] if columns is None else listed(columns))]
    whole_names = asked if proposer is None else [with_proposer(name, proposer) for name in asked]
    names = find_columns(store, dataset, split, None if columns is None else [*asked, *whole_names])
    if "images" not in names:
        raise missing_split(store, dataset, split)
    tables = TableCache(whole("table_cache_bytes", table_cache_bytes))
    opener = Opener(Lineage(store, summaries=True), allow_incomplete, check, tables, coherence)

    meant_by = (
        names
        if columns is None
        else [name for name in names if {name, without_proposer(name)} & {*asked, *whole_names}]
    )
    opener.lineage.ask_ahead(place_of(dataset, name, split) for name in meant_by)

    def unused(name: str) -> bool:
        return is_unused(opener.lineage, place_of(dataset, name, split))

    holder = None
    if columns is None or proposer is not None or not set(asked) <= set(names):
        holder = _holder(opener, place_of(dataset, "images", split), [*asked, *whole_names])
    if holder is not None:  # a column left over from when the split held images must not hide the holder's
        names = [name for name in names if not (is_of_pictures(name) and unused(name))]
    if columns is None:
        _require_no_links(store, [(dataset, split), *([] if holder is None else holder.places)])
    held = set() if holder is None else set(holder.names).difference(names)
    known, why_not = [*names, *sorted(held)], None if holder is None else holder.why_not
    if proposer is not None:
        _check_proposer(proposer, proposers_of(known), dataset, split, why_not)
    found = (find_name(name, known, proposer) or full for name, full in zip(asked, whole_names, strict=True))
    wanted = list(dict.fromkeys(found))
    if columns is None:
        mine = [name for name in known if proposer is None or proposer_of(name) in (None, proposer)]
        if not allow_incomplete:
            mine = [name for name in mine if not (holder.is_unused(name) if holder and name in held else unused(name))]
        wanted = list(dict.fromkeys([*wanted, *mine]))
    if unknown := sorted(set(wanted) - set(known)):
        place, of = place_of(dataset, unknown[0], split), ""
        if holder is not None and is_of_pictures(unknown[0]):
            if holder.why_not is not None:
                raise lacking(f"{dataset}/{split}", unknown[0], holder.why_not)
            place, of = (
                place_of(holder.name, unknown[0], holder.splits[0]),
                f", nor has {holder.name} that holds its images",
            )
        hints = "".join(meant(name, both_names(known)) for name in unknown)
        raise StoreError(
            f"{dataset}/{split}: no column {', '.join(unknown)}{of}; {hints}found {', '.join(known)}",
            place=place,
            found=list(known),
            expected=unknown[0],
        )
    if holder is not None:
        opener.lineage.ask_ahead(
            place_of(holder.name, name, part) for name in wanted if name in held for part in holder.splits
        )
    opened: dict[str, AnyColumn] = {} if holder is None else {"images": holder.borrowing.images}
    for name in (name for name in wanted if name not in opened):
        place = place_of(dataset, name, split)
        opened[name] = holder.open(name) if holder is not None and name in held else opener.open(place)
    images = opened["images"].meta
    for name, column in opened.items():
        made_for = (column.meta.images, column.meta.shard_images)
        if not allow_incomplete and made_for != (images.images, images.shard_images):
            raise IncompleteColumnError(
                f"{name} was made for {made_for[0]} images in shards of {made_for[1]}, the split has {images.images} in shards "
                f"of {images.shard_images}",
                place=place_of(dataset, name, split),
                found=made_for,
                expected=(images.images, images.shard_images),
            )
    return Split(dataset, split, opened, images_root, tables, proposer, why_not)


def _unnamed(store: Path, dataset: str | None, split: str | None) -> StoreError:
    """The error for a data set or split that was not named; says which there are, and how to open the first."""
    given = {"dataset": dataset, "split": split}
    found = (
        f"found the name {dataset!r}, expected letters, digits, '_', '-', '.', starting with a letter or digit"
        if dataset
        else f"found no {' and no '.join(key for key, value in given.items() if not value)}, expected both"
    )
    there = {} if is_web(store) or not is_folder(store) else find_splits(store)
    first = next(((name, one) for name, splits in there.items() for one in splits if split in (None, one)), None)
    example = "" if first is None else f', such as open_split({str(store)!r}, "{first[0]}", "{first[1]}")'
    return StoreError(f"{found}; {what_exists(store, dataset)}{example}")


def _holder(opener: Opener, images: str, asked: Sequence[str]) -> Holder | None:
    """The holder of a split's images, by the place of the images; None where they are its own."""
    meta = opener.lineage.meta(images)
    return None if meta is None or meta.holder is None else Holder(opener, opener.open(images), asked)


def _require_no_links(store: Path, splits: Sequence[tuple[str, str]]) -> None:
    for dataset, split in splits:
        if links := find_links(store, dataset, split):
            raise StoreError(
                f"{links[0]}: found a link, expected a folder: links in a store are not followed, so its columns would be left "
                "out; put the folder itself there, or name the columns to open with columns=[...]"
            )


def _check_proposer(name: str, known: Sequence[str], dataset: str, split: str, why_not: NotThere | None) -> None:
    if name not in known:
        if why_not is not None:
            raise lacking(f"{dataset}/{split}", with_proposer("masks", name), why_not)
        there = ", ".join(known) or "none of any proposer"
        raise StoreError(
            f"{dataset}/{split}: no column of a proposer {name!r}; {meant(name, known)}found {there}",
            place=place_of(dataset, with_proposer("masks", name), split),
            reason="not computed",
            found=list(known),
            expected=name,
        )
