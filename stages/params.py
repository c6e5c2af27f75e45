"""One frozen parameter model per stage, with the defaults; a params file says only what differs.

A default of a field that decides bytes never changes once it is released, and a new field is left out of identities while it has
its default, which means the old behaviour.

Fields that only say *how* work is done are in :class:`RunParams` and belong to no fingerprint.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.datasets import AnyData
from stages.fields import AtOnce, Dense, Key, Name, Params, Precision, Sha256
from stages.proposers import AnyProposer


def _multiple_of_16(value: int) -> int:
    if value % 16:
        raise ValueError(
            f"found {value}, expected a multiple of 16 (one chunk holds 16 vectors), such as {-(-value // 16) * 16}"
        )
    return value


class ImportedVectorsParams(Params):
    """Vectors that another program made, as the verb ``import`` kept them (docs/import.md)."""

    sha256: Sha256
    """Digest of the archive of vectors, which the verb ``import`` prints."""
    dim: Annotated[int, Field(ge=1)]
    """Length of a vector."""
    proposers: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Proposers whose masks the vectors belong to."""
    instances: bool = False
    """Whether vectors of annotated instances are among them."""


class EmbedParams(Params):
    """Encoders, by name (stages/encoders)."""

    mask_encoders: tuple[Name, ...] = ("alphaclip_vit_b16", "alphaclip_vit_b16_mask_only", "dinov2_vitl14", "sam_vit_h")
    """Encoders that give one vector per mask, for proposals and instances alike."""
    image_encoders: tuple[Name, ...] = ("clip_vit_l14", "clip_vit_l14_336")
    """Encoders that give patch tokens of the whole image."""
    precision: Precision = "float32"
    """Precision of the encoders' matrix products, SAM's image encoder for ``sam_features`` included. Vectors are always
    stored in float16."""
    max_masks: Annotated[int, Field(ge=16)] = 64
    """K_max: the largest masks of an image that get an embedding (a multiple of 16); all are kept in the table."""
    max_instances: Annotated[int, Field(ge=16)] = 32
    """G_max: the instances of an image that get an embedding (a multiple of 16); all are kept in the table."""
    sam_features: tuple[Name, ...] = ()
    """SAM models whose embedding of the whole image is stored, which LISA and SAM pooling read. A proposer of the same model and
    precision shares the run of the encoder."""

    dense: Annotated[tuple[Dense, ...], Field(min_length=1)] = ("float16",)
    """How ``sam_features`` and the patch tokens of image encoders are stored: float16, int8 with a float16 scale for each token,
    which is half the bytes, or both, to compare them. A run says with ``train.dense`` which it reads."""

    imported: dict[Key, ImportedVectorsParams] = Field(default_factory=dict)
    """Encoders by name whose vectors were imported; these names are used like those of ``mask_encoders``."""

    _check = field_validator("max_masks", "max_instances")(_multiple_of_16)


class MeanParams(Params):
    """One train mean and what is centred on it; its name stands in their columns."""

    train: Annotated[tuple[str, ...], Field(min_length=1)]
    """Splits whose masks and instances make the mean, as demo/train; with a single data set, train is enough."""


class ReportParams(Params):
    """What pictures show. Belongs to no fingerprint."""

    similarity_vectors: Annotated[int, Field(ge=2)] = 256
    """Mask embeddings per split, spread evenly, in the similarity report of ``normalize``."""


class EvaluateParams(Params):
    """What trained systems are asked."""

    splits: tuple[str, ...] = ()
    """Splits that evaluate and report take where the command names none, as demo/test; default: the last one of each data set."""


class RunParams(Params):
    """How work is done. Belongs to no fingerprint; recorded in the commit."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run."""
    executor: Literal["local", "dask"] = "local"
    """In this process, or on dask.distributed."""
    scheduler: str = ""
    """Address of a Dask scheduler; empty: a LocalCluster on this machine."""
    workers: Annotated[int, Field(ge=1)] = 1
    """Processes of the LocalCluster. Where there are GPUs, each sees one of them: choose as many workers as cards."""
    worker_timeout_s: Annotated[float, Field(ge=0)] = 600
    """A command on Dask ends with exit code 75 if it had no usable worker for this long."""
    threads: Annotated[int, Field(ge=0)] = 0
    """torch threads per process; 0: torch's own choice."""
    points_per_batch: AtOnce = None
    """SAM prompts decoded together; null: 64, as SAM's own generator. Halved when memory runs out."""
    masks_per_batch: AtOnce = None
    """Masks embedded together; null: 64. Halved when memory runs out."""
    images_per_batch: AtOnce = None
    """Images whose masks are embedded together; null: 1 on a processor, 8 on a GPU."""
    prefetch: Annotated[int, Field(ge=0)] = 4
    """Images decoded ahead, in threads; 0: none. ``index`` also reads annotations in these threads, of which it
    starts no more than it has cores."""
    weights_dir: str = "data/weights"
    """Folder of fetched checkpoints."""
    train_dir: str = "data/train"
    """Folder of trained systems and their predictions."""
    report_dir: str = "data/report"
    """Folder of metrics and pictures."""
    cache_dir: str = "data/cache"
    """Folder of the cache: facts about source files, such as digests, so that they are not read again, and what ``ask``
    computed from new pictures. It may be removed at any time."""
    max_failures: Annotated[int, Field(ge=0)] = 0
    """More failed images than this end a run with exit code 1."""


class Shared(Params):
    """The sections that are the same for all data sets: those that decide what is computed, and ``run``."""

    proposers: dict[Key, AnyProposer] = Field(default_factory=dict)
    """Mask generators by name: ``{kind: ..., and the options of that kind}``; without ``kind``: SAM's everything mode."""
    embed: EmbedParams = EmbedParams()
    """Section embed."""
    means: dict[Key, MeanParams] = Field(default_factory=dict)
    """Train means by name. Embeddings are centred on each of them."""
    report: ReportParams = ReportParams()
    """Section report."""
    run: RunParams = RunParams()
    """Section run."""


class Sections(Shared):
    """What a stage sees: its parameters, and those of the data set that it works on."""

    data: AnyData
    """The entry of section data."""
    holder: AnyData | None = None
    """The entry of the data set whose images these are; None where they are its own."""
