"""One frozen parameter model a stage. Defaults live in ``params.yaml``; a field that few people set has one here.

Fields that only say *how* work is done are in :class:`RunParams` and belong to no fingerprint.
"""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.fields import AtOnce, Key, Name, Params, Precision
from stages.proposers import AnyProposer


def _multiple_of_16(value: int) -> int:
    if value % 16:
        raise ValueError(f"found {value}, expected a multiple of 16 (one chunk holds 16 vectors)")
    return value


class IndexParams(Params):
    """Data set -> images, instances, targets."""

    format: Literal["reasonseg"]
    """Annotation format of the data set."""
    root: str
    """Folder of the data set. Belongs to no fingerprint: the files' checksums do."""
    max_pixels: Annotated[int, Field(ge=1, le=89_478_485)]
    """Images with more pixels than this are failed rows, before anything is decoded. Pillow's own guard is the most."""
    encoding: str | None = None
    """Encoding of annotation files that are not UTF-8, such as gbk. null: cp1252, for files whose every byte beyond ASCII
    stands alone."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            "".encode(value)  # which an encoding that is not of text refuses
            return codecs.lookup(value).name
        except LookupError as error:
            raise ValueError(f"found {value!r}, expected the name of a text encoding in Python, such as gbk") from error


class EmbedParams(Params):
    """Encoders, by name (stages/encoders)."""

    mask_encoders: tuple[Name, ...]
    """Encoders that give a vector a mask, for proposals and instances alike."""
    image_encoders: tuple[Name, ...]
    """Encoders that give patch tokens an image."""
    precision: Precision
    """Of the encoders' matrix products, SAM's image encoder for ``sam_features`` among them. Vectors are stored in float16
    whatever it is."""
    max_masks: Annotated[int, Field(ge=16)]
    """K_max: the largest masks of an image that get an embedding (a multiple of 16); all are kept in the table."""
    max_instances: Annotated[int, Field(ge=16)]
    """G_max: the instances of an image that get an embedding (a multiple of 16); all are kept in the table."""
    sam_features: tuple[Name, ...] = ()
    """SAM models whose embedding of the whole image is stored, which LISA and SAM pooling read. A proposer of the same model and
    precision shares the run of the encoder."""

    _check = field_validator("max_masks", "max_instances")(_multiple_of_16)


class MeanParams(Params):
    """One train mean and what is centred on it; its name stands in their columns."""

    train: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Splits whose masks and instances make the mean."""


class ReportParams(Params):
    """What pictures show. Belongs to no fingerprint."""

    similarity_vectors: Annotated[int, Field(ge=2)] = 256
    """Mask embeddings per split, spread evenly, in the similarity report of ``normalize``."""


class RunParams(Params):
    """How work is done. Belongs to no fingerprint; recorded in the commit."""

    device: Literal["auto", "cpu", "cuda"]
    """Where models run."""
    executor: Literal["local", "dask"]
    """In this process, or on dask.distributed."""
    scheduler: str
    """Address of a Dask scheduler; empty: a LocalCluster on this machine."""
    workers: Annotated[int, Field(ge=1)]
    """Processes of the LocalCluster."""
    worker_timeout_s: Annotated[float, Field(ge=0)] = 600
    """Without any worker that can be used for this long, a command on Dask ends with exit code 75."""
    threads: Annotated[int, Field(ge=0)]
    """torch threads a process; 0: torch's own choice."""
    points_per_batch: AtOnce = None
    """SAM prompts decoded together; null: 64, as SAM's own generator. Halved where memory runs out."""
    masks_per_batch: AtOnce = None
    """Masks embedded together; null: 64. Halved where memory runs out."""
    images_per_batch: AtOnce = None
    """Images whose masks are embedded together; null: 1 on a processor, 8 on a GPU."""
    prefetch: Annotated[int, Field(ge=0)]
    """Images decoded ahead, in threads; 0: none. ``index`` also reads annotations in them, on every core it may use."""
    weights_dir: str
    """Folder of fetched checkpoints."""
    train_dir: str
    """Folder of trained systems and their predictions."""
    report_dir: str
    """Folder of metrics and pictures."""
    cache_dir: str = "data/cache"
    """Folder of what is known of source files, so that they are not read again. It may be removed at any time."""
    max_failures: Annotated[int, Field(ge=0)]
    """More failed images than this end a run with exit code 1."""


class Sections(Params):
    """The sections that decide what is computed, and ``run``."""

    index: IndexParams
    """Section index."""
    proposers: dict[Key, AnyProposer] = Field(default_factory=dict)
    """Generators of masks by name: ``{kind: ..., its own options}``, and without ``kind`` SAM's everything mode."""
    embed: EmbedParams
    """Section embed."""
    means: dict[Name, MeanParams]
    """Train means by name. Embeddings are centred on each of them."""
    report: ReportParams = ReportParams()
    """Section report."""
    run: RunParams
    """Section run."""
