"""One frozen parameter model per stage, with the defaults; a params file says only what differs.

A default of a field that decides bytes never changes once it is released, and a new field is left out of identities while it has
its default, which means the old behaviour.

Fields that only say *how* work is done are in :class:`RunParams` and belong to no fingerprint.
"""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from stages.datasets import DATASETS
from stages.names import did_you_mean

Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "float16", "bfloat16"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""A name that is a key of the params. It has no dot: ``--set data.demo.root=...`` and DVC take a dot for the next key."""
AtOnce = Annotated[int | None, Field(ge=1), BeforeValidator(lambda value: None if value == 0 else value)]
"""A size of batches, or null for the one that is fixed for the kind of device; 0, as older files have it, is null."""


class Params(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def _multiple_of_16(value: int) -> int:
    if value % 16:
        raise ValueError(f"found {value}, expected a multiple of 16 (one chunk holds 16 vectors)")
    return value


def _known_format(name: str) -> str:
    if name not in DATASETS:
        raise ValueError(f"found {name!r}, expected one of {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}")
    return name


class DataParams(Params):
    """One data set, an entry of section data: data set -> images, instances, targets."""

    format: Annotated[str, AfterValidator(_known_format)]
    """Annotation format of the data set."""
    images: Key
    """The data set that holds the image files: its own name where they are its own."""
    root: str
    """Folder of the data set. Belongs to no fingerprint: the files' checksums do."""
    splits: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Splits of the data set."""
    encoding: str | None = None
    """Encoding of annotation files that are not UTF-8, such as gbk. null: cp1252, for files whose every byte beyond ASCII
    stands alone."""
    max_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = 89_478_485
    """Images with more pixels than this are failed rows, before anything is decoded. The default, Pillow's own guard, is the
    most."""

    @field_validator("splits")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a split stands twice in {list(value)}")
        return value

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


class MasksParams(Params):
    """SAM everything mode. Field names and meanings are ``SamAutomaticMaskGenerator``'s."""

    model: Name
    """SAM model: sam_vit_b, sam_vit_l, sam_vit_h or demo_sam."""
    max_side_px: Annotated[int, Field(ge=0)]
    """Longest side SAM works at; a larger image is reduced first (INTER_AREA). 0: no limit."""
    save_features: bool
    """Write sam_features, so that SAM's encoder runs once an image (not with crops or max_side_px)."""
    precision: Precision
    """float32: the official arithmetic but for rounding. 16 bit: faster on a GPU; a few masks at the thresholds differ."""
    points_per_side: Annotated[int, Field(ge=1)]
    """Points along one side of the grid: points_per_side**2 prompts an image."""
    pred_iou_thresh: Fraction
    """Masks with a smaller predicted_iou are dropped."""
    stability_score_thresh: Fraction
    """Masks with a smaller stability_score are dropped."""
    stability_score_offset: Annotated[float, Field(ge=0)]
    """Shift of the cutoff, in logits, when the stability score is computed."""
    box_nms_thresh: Fraction
    """Box IoU above which the less confident of two masks is dropped."""
    crop_n_layers: Annotated[int, Field(ge=0)]
    """Layers of crops; layer i has 2**i x 2**i crops."""
    crop_nms_thresh: Fraction
    """Box IoU above which masks of different crops are duplicates."""
    crop_overlap_ratio: Fraction
    """Overlap of crops as a fraction of the image's length, in the first layer."""
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1)]
    """points_per_side in layer n is divided by this to the power n."""
    min_mask_region_area: Annotated[int, Field(ge=0)]
    """Disconnected regions and holes smaller than this, in px, are removed. 0: none."""

    @model_validator(mode="after")
    def _every_layer_has_points(self) -> MasksParams:
        layers, factor = self.crop_n_layers, self.crop_n_points_downscale_factor
        empty = next((layer for layer in range(layers + 1) if self.points_per_side < factor**layer), None)
        if empty is not None:
            raise ValueError(
                f"found points_per_side {self.points_per_side} and crop_n_points_downscale_factor {factor}, which leave the "
                f"crops of layer {empty} without a point ({self.points_per_side} / {factor}**{empty} is less than 1); with "
                f"crop_n_layers {layers}, set masks.points_per_side to {factor**layers} or more, or lower one of the other two"
            )
        return self


class EmbedParams(Params):
    """Encoders, by name (stages/encoders)."""

    mask_encoders: tuple[Name, ...] = ("alphaclip_vit_b16", "alphaclip_vit_b16_mask_only", "dinov2_vitl14", "sam_vit_h")
    """Encoders that give one vector per mask, for proposals and instances alike."""
    image_encoders: tuple[Name, ...] = ("clip_vit_l14", "clip_vit_l14_336")
    """Encoders that give patch tokens of the whole image."""
    precision: Precision = "float32"
    """Of the encoders' matrix products. Vectors are stored in float16 whatever it is."""
    max_masks: Annotated[int, Field(ge=16)] = 64
    """K_max: the largest masks of an image that get an embedding (a multiple of 16); all are kept in the table."""
    max_instances: Annotated[int, Field(ge=16)] = 32
    """G_max: the instances of an image that get an embedding (a multiple of 16); all are kept in the table."""

    _check = field_validator("max_masks", "max_instances")(_multiple_of_16)


class NormalizeParams(Params):
    """Train mean and centred embeddings."""

    name: Name
    """Name of the mean: <store>/means/<name>/<encoder>."""
    train: tuple[str, ...]
    """Splits whose masks and instances make the mean, as demo/train; of an only data set train will do."""
    report_vectors: Annotated[int, Field(ge=2)]
    """Mask embeddings a split, spread evenly, in the similarity report."""


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
    """Processes of the LocalCluster."""
    worker_timeout_s: Annotated[float, Field(ge=0)] = 600
    """Without any worker that can be used for this long, a command on Dask ends with exit code 75."""
    threads: Annotated[int, Field(ge=0)] = 0
    """torch threads per process; 0: torch's own choice."""
    points_per_batch: AtOnce = None
    """SAM prompts decoded together; null: 64, as SAM's own generator. Halved where memory runs out."""
    masks_per_batch: AtOnce = None
    """Masks embedded together; null: 64. Halved where memory runs out."""
    images_per_batch: AtOnce = None
    """Images whose masks are embedded together; null: 1 on a processor, 8 on a GPU."""
    prefetch: Annotated[int, Field(ge=0)] = 4
    """Images decoded ahead, in threads."""
    weights_dir: str = "data/weights"
    """Folder of fetched checkpoints."""
    train_dir: str = "data/train"
    """Folder of trained systems and their predictions."""
    report_dir: str = "data/report"
    """Folder of metrics and pictures."""
    max_failures: Annotated[int, Field(ge=0)] = 0
    """More failed images than this end a run with exit code 1."""


class Shared(Params):
    """The sections that are the same for all data sets: those that decide what is computed, and ``run``."""

    masks: MasksParams
    """Section masks."""
    embed: EmbedParams = EmbedParams()
    """Section embed."""
    normalize: NormalizeParams
    """Section normalize."""
    run: RunParams = RunParams()
    """Section run."""

    @model_validator(mode="after")
    def _features_fit_the_masks(self) -> Shared:
        masks = self.masks
        if masks.save_features and (masks.crop_n_layers or masks.max_side_px):
            raise ValueError(
                "masks.save_features: found true together with crops or max_side_px, where SAM's encoder sees something else "
                "than the whole image; set masks.save_features to false"
            )
        return self


class Sections(Shared):
    """What a stage sees: its parameters, and those of the data set that it works on."""

    data: DataParams
    """The entry of section data."""
