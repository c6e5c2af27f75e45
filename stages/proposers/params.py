"""Parameter models of the proposers, one per kind: its options with their defaults. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.fields import Fraction, Name, Params, Precision, Sha256
from stages.proposers.sam import sam_model
from stages.weights import imported_name


class ProposerParams(Params):
    """Base: an entry of section ``proposers``. Every field decides the masks, so all of them belong to the fingerprint."""

    kind: str
    """Which line of ``stages.proposers.PROPOSERS``."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Names in stages/weights.py of the files that it needs."""
        return ()


class SamParams(ProposerParams):
    """SAM's everything mode. Names, meanings and defaults are ``SamAutomaticMaskGenerator``'s."""

    kind: Literal["sam"] = "sam"
    """sam, grid or imported; an entry without it is of kind sam."""
    model: Name
    """SAM model: sam_vit_b, sam_vit_l, sam_vit_h or demo_sam."""
    max_side_px: Annotated[int, Field(ge=0)] = 0
    """Longest side SAM works at; a larger image is reduced first (INTER_AREA). 0: no limit."""
    precision: Precision = "float32"
    """float32: the official arithmetic except for rounding. 16 bit: faster on a GPU; a few masks at the thresholds differ."""
    points_per_side: Annotated[int, Field(ge=1)] = 32
    """Points along one side of the grid: points_per_side**2 prompts per image."""
    pred_iou_thresh: Fraction = 0.88
    """Masks with a smaller predicted_iou are dropped."""
    stability_score_thresh: Fraction = 0.95
    """Masks with a smaller stability_score are dropped."""
    stability_score_offset: Annotated[float, Field(ge=0)] = 1.0
    """Shift of the cutoff, in logits, when the stability score is computed."""
    box_nms_thresh: Fraction = 0.7
    """Box IoU above which the less confident of two masks is dropped."""
    crop_n_layers: Annotated[int, Field(ge=0)] = 0
    """Layers of crops; layer i has 2**i x 2**i crops."""
    crop_nms_thresh: Fraction = 0.7
    """Box IoU above which masks of different crops are duplicates."""
    crop_overlap_ratio: Fraction = 512 / 1500
    """Overlap of crops as a fraction of the image's length, in the first layer."""
    crop_n_points_downscale_factor: Annotated[int, Field(ge=1)] = 1
    """points_per_side in layer n is divided by this to the power n."""
    min_mask_region_area: Annotated[int, Field(ge=0)] = 0
    """Disconnected regions and holes smaller than this, in px, are removed. 0: none."""

    @property
    def weights(self) -> tuple[str, ...]:
        """The model's checkpoint; ValueError, naming the choices, for an unknown model."""
        return (sam_model(self.model).weights,)

    @model_validator(mode="after")
    def _every_layer_has_points(self) -> SamParams:
        layers, factor = self.crop_n_layers, self.crop_n_points_downscale_factor
        empty = next((layer for layer in range(layers + 1) if self.points_per_side < factor**layer), None)
        if empty is not None:
            raise ValueError(
                f"found points_per_side {self.points_per_side} and crop_n_points_downscale_factor {factor}, which leave the "
                f"crops of layer {empty} without a point ({self.points_per_side} / {factor}**{empty} is less than 1); with "
                f"crop_n_layers {layers}, set points_per_side to {factor**layers} or more, or lower one of the other two"
            )
        return self


class GridParams(ProposerParams):
    """Rectangles: the image cut into cells. A baseline: it shows what can be reached without looking at the image."""

    kind: Literal["grid"]
    """sam, grid or imported; an entry without it is of kind sam."""
    cells_per_side: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8)
    """Each number n cuts the image into n x n cells."""
    min_area: Annotated[int, Field(ge=0)] = 0
    """Cells with fewer px are left out."""


class ImportedParams(ProposerParams):
    """Masks that another program made, as the verb ``import`` kept them (docs/import.md)."""

    kind: Literal["imported"]
    """sam, grid or imported; an entry without it is of kind sam."""
    sha256: Sha256
    """Digest of the archive of masks, which the verb ``import`` prints."""

    @property
    def weights(self) -> tuple[str, ...]:
        """The archive."""
        return (imported_name(self.sha256),)
