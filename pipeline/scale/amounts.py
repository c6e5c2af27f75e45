"""Bytes of each column and requests to an object store, for a number of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.config import Settings
from pipeline.graph import specs
from pipeline.scale.profiles import Profiles
from stages.base import ColumnSpec
from stages.proposers.params import GridParams
from store.format.names import proposer_of, without_proposer

INDEX_BYTES, CRC_BYTES = 16, 4
"""Bytes that a chunk takes in a shard's index, and after its values."""
IMAGE_BYTES, TEXT_BYTES = 150, 150
"""Bytes of a row of ``images``, and of a question with its answer, compressed."""
RECORD_BYTES = 30
"""Bytes of an image in the record of each shard."""


@dataclass(frozen=True)
class Workload:
    """Images of one data set, on average.

    Args:
        images: how many.
        masks: masks that each proposer finds in an image.
        instances, questions: annotated regions and questions of an image.
        shards: of a column.
        dataset: a key of section ``data``, whose columns are made.
    """

    dataset: str
    images: int
    height_px: float
    width_px: float
    masks: float
    instances: float
    questions: float
    shards: int

    @property
    def megapixels(self) -> float:
        """Size of an image."""
        return self.height_px * self.width_px / 1e6


def made(settings: Settings, work: Workload) -> Iterator[ColumnSpec]:
    """The columns of the data set that are made shard by shard; without annotations, none that is made from them."""
    absent = {"instances"} if not work.instances else set()
    absent |= {"targets"} if not work.questions else set()
    for spec in specs(settings, work.dataset).values():
        if spec.name in absent or absent.intersection(spec.reads):
            absent.add(spec.name)
        elif spec.over is None:
            yield spec


def bytes_per_image(settings: Settings, profiles: Profiles, spec: ColumnSpec, work: Workload) -> float:
    """Bytes on disk of a column, for an image."""
    rle = (work.height_px + work.width_px) * profiles.masks.runs_per_side.value * profiles.masks.bytes_per_run.value
    region = rle + profiles.masks.mask_bytes.value
    masks = masks_of(settings, spec, work)
    kind = without_proposer(spec.name)
    if spec.layout is not None:
        layout = spec.layout
        rows = {"mask_embeddings": masks, "instance_embeddings": work.instances}.get(_what(kind), layout.row_shape[0])
        chunks = math.ceil(min(rows, layout.row_shape[0]) / layout.chunk_rows)
        values = layout.chunk_rows * math.prod(layout.row_shape[1:])
        size = chunks * (values * np.dtype(layout.dtype).itemsize + CRC_BYTES)
        return RECORD_BYTES + size + INDEX_BYTES * layout.row_shape[0] / layout.chunk_rows
    tables = {
        "images": IMAGE_BYTES,
        "instances": work.instances * region,
        "targets": work.questions * (TEXT_BYTES + 2 * rle),
        "masks": masks * region,
        "match/targets": work.questions * masks * 4 * 4,
        "match/instances": work.instances * masks * 2 * 4,
    }
    return RECORD_BYTES + tables[kind]


def masks_of(settings: Settings, spec: ColumnSpec, work: Workload) -> float:
    """Masks that the proposer in a column's name finds in an image."""
    proposer = settings.proposers.get(proposer_of(spec.name) or "")
    if isinstance(proposer, GridParams):
        return sum(cells**2 for cells in proposer.cells_per_side)
    return work.masks


def _what(kind: str) -> str:
    """``mask_embeddings`` of ``mask_embeddings/<encoder>`` and of ``centered/<mean>/mask_embeddings/<encoder>``."""
    parts = kind.split("/")
    return parts[2] if parts[0] == "centered" else parts[0]
