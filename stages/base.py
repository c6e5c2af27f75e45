"""What a stage is: a list of columns it promises, and a function from a shard's input to their rows.

A stage never opens a shard, never reads ``params.yaml`` and does not know its split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.datasets.base import Source
from stages.params import Sections
from store import rle
from store.format.arrays import AnyArray
from store.format.column import ArrayLayout
from store.format.links import Link
from store.format.schema import ABSENT, FAILED, OK, REMOVED
from store.write.writer import ShardData

HELD_IMAGES = "holder/images"
"""What the column ``images`` reads where a data set borrows its images: the row of each in the holder's ``images``."""
Pixels = npt.NDArray[np.uint8]
VECTORS_PER_CHUNK = 16


@dataclass(frozen=True)
class ColumnSpec:
    """A column that a stage promises to write.

    Args:
        reads: upstream columns, of the same split; with ``over``, of the store.
        params, weights, version: together with the fingerprints of ``reads``, everything that decides the bytes.
        files: only for the index: which source files it reads, ``images`` or ``annotations``.
        over: splits whose shards are reduced to the single shard of this column, which then belongs to no split. None: the
            column belongs to a split and is computed shard by shard.
    """

    name: str
    stage: str
    reads: tuple[str, ...]
    params: Mapping[str, Any]
    version: int
    weights: tuple[str, ...] = ()
    schema: pa.Schema | None = None
    layout: ArrayLayout | None = None
    files: str | None = None
    over: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in the order of a split's images: where the image is, or that it was removed.

    For a borrowed image: ``link``: the holder's split and the image_index there; None: the holder has no such image. ``held``:
    its path there. ``unlisted``: its files there, if the holder's option ``only`` leaves it out. ``digests``: sha256 of these
    files.
    """

    source: Source
    removed: bool = False
    link: Link | None = None
    held: str = ""
    unlisted: Source | None = None
    digests: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The image file, relative to the root of the data set that holds it."""
        return self.held or self.source.path


@dataclass(frozen=True)
class ShardInput:
    """What a stage sees of one shard.

    Args:
        indices: image_index of the shard's images.
        rows: upstream table -> its rows (one per image; for targets one per target).
        array: (upstream array, position in the shard) -> vectors ``[count, ...]`` of an image without trouble.
        trouble: (upstream array, position) -> (status, reason) where the image has no vectors, else None.
        pixels: uint8 [H, W, 3] RGB of every image in turn, decoded ahead; None where ``images`` has another status than ok.
        entries: only for the index.
        tick: called once per image, with 1, or after a few images with their number.
        columns: the columns that this shard needs, among those that the stage was started for; None: all of them.
    """

    indices: range
    rows: Callable[[str], list[dict[str, Any]]]
    array: Callable[[str, int], AnyArray]
    trouble: Callable[[str, int], tuple[str, str] | None]
    pixels: Callable[[], Iterator[Pixels | None]]
    tick: Callable[[int], None]
    entries: tuple[Entry, ...] = ()
    columns: tuple[str, ...] | None = None

    def collectors(self, specs: Mapping[str, ColumnSpec]) -> dict[str, Collector]:
        """An empty :class:`Collector` for each column that this shard needs."""
        return {name: Collector(spec) for name, spec in specs.items() if self.columns is None or name in self.columns}


Runner = Callable[[ShardInput], dict[str, ShardData]]


class Stage(Protocol):
    """The two functions of a stage module that computes a shard from the same shard of what it reads."""

    def columns(self, params: Sections) -> list[ColumnSpec]:
        """The columns that the stage writes. Imports no torch."""

    def start(self, params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
        """Load models; return the function that computes the columns of a shard: those that it needs among the ``wanted`` ones."""


class Reduction(Protocol):
    """The three functions of a stage module that computes one shard from all shards of several splits."""

    def columns(self, params: Sections) -> list[ColumnSpec]:
        """The columns that the stage writes; every spec has ``over``."""

    def part(self, images: Iterable[AnyArray]) -> Any:
        """What one shard contributes: a small value that travels between processes."""

    def whole(self, parts: Iterable[Any]) -> ShardData:
        """The shard, of one row, from all contributions in their order."""


def row_trouble(row: Mapping[str, Any], what: str) -> tuple[str, str] | None:
    """(status, reason) for a downstream row when the upstream row is not ok, else None."""
    if row["status"] == OK:
        return None
    if row["status"] == REMOVED:
        return REMOVED, REMOVED
    if row["status"] == ABSENT:
        return ABSENT, str(row["error"])
    return FAILED, f"{what}: {row['error']}"


def not_finite(vectors: AnyArray, dtype: str) -> str | None:
    """Why float32 vectors cannot be stored: they are not finite in the dtype. None if they are."""
    with np.errstate(over="ignore"):
        if np.isfinite(vectors.astype(dtype)).all():
            return None
    kind = "NaN" if np.isnan(vectors).any() else f"values outside {dtype}"
    return f"non-finite features: {kind} from float32"


@dataclass
class Collector:
    """Gathers the rows of one column, one call per image: :meth:`ok` or :meth:`failed`."""

    spec: ColumnSpec
    rows: list[Any] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)
    omitted: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    """Notes about images that are ok, and how often each occurs; written to the commit."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further entries of the commit."""

    @property
    def _row_a_target(self) -> bool:
        return self.spec.schema is not None and "target_id" in self.spec.schema.names

    def ok(self, image_index: int, value: Any, omitted: int = 0) -> None:
        """Add an image: a dict of lists (table), a list of rows (one per target) or ``[count, ...]`` (array)."""
        if self._row_a_target:
            count = len(value)
            self.rows += [{"image_index": image_index, **row} for row in value]
        elif self.spec.schema is not None:
            count = max((len(item) for item in value.values() if isinstance(item, list)), default=1)
            self.rows.append({"image_index": image_index, "status": OK, "error": None, **value})
        else:
            count = len(value)
            self.rows.append(value)
        self.counts.append(count)
        self.status.append(OK)
        self.omitted += omitted

    def failed(self, image_index: int, status: str, reason: str, value: Mapping[str, Any] | None = None) -> None:
        """Add an image that has no data, with the reason."""
        self.errors[len(self.counts)] = reason
        if self.spec.schema is not None and not self._row_a_target:
            empty: dict[str, Any] = {item.name: [] for item in self.spec.schema if pa.types.is_list(item.type)}
            self.rows.append({**empty, "image_index": image_index, "status": status, "error": reason, **(value or {})})
        elif self.spec.layout is not None:
            self.rows.append(np.empty((0, *self.spec.layout.row_shape[1:]), dtype=self.spec.layout.dtype))
        self.counts.append(0)
        self.status.append(status)

    def array(self, image_index: int, vectors: AnyArray, omitted: int = 0) -> None:
        """Add an image's float32 vectors in the layout's dtype; the image fails if they are not finite there."""
        assert self.spec.layout is not None
        if trouble := not_finite(vectors, self.spec.layout.dtype):
            self.failed(image_index, FAILED, trouble)
        else:
            self.ok(image_index, vectors.astype(self.spec.layout.dtype), omitted)

    def data(self) -> ShardData:
        """The shard in the form that the writer takes."""
        extra = {"notes": dict(self.notes)} if self.notes else {}
        return ShardData(self.rows, self.counts, self.status, self.errors, self.omitted, {**extra, **self.extra})


class RleMasks(Sequence[npt.NDArray[np.bool_]]):
    """Masks, bool [H, W], each decoded only when it is asked for."""

    def __init__(self, counts: Sequence[str], height_px: int, width_px: int) -> None:
        self.counts = list(counts)
        self.height_px = height_px
        self.width_px = width_px

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return RleMasks(self.counts[item], self.height_px, self.width_px)
        return rle.decode(self.counts[item], self.height_px, self.width_px)
