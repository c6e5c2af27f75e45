"""The SAM models, by name, and the engine that runs their everything mode. This file imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stages.names import did_you_mean


@dataclass(frozen=True)
class SamModel:
    """A SAM: its weights' name, and the shape [embed_dim, grid, grid] of the image embedding it makes.

    `image_size` is the side, px, of the square the network sees. `vit` holds the sizes of a model that is not one
    of the published three: `patch_size`, `dim`, `depth`, `heads`, `window_size`, `global_blocks`, `decoder_mlp_dim`,
    `decoder_heads`, `mask_in_chans` and `iou_hidden_dim`.
    """

    weights: str
    image_size: int
    embed_dim: int
    grid: int
    vit: Mapping[str, int | tuple[int, ...]] | None = None


_DEMO_VIT: Mapping[str, int | tuple[int, ...]] = MappingProxyType(
    {
        "patch_size": 8,
        "dim": 128,
        "depth": 6,
        "heads": 2,
        "window_size": 8,
        "global_blocks": (2, 5),
        "decoder_mlp_dim": 256,
        "decoder_heads": 4,
        "mask_in_chans": 16,
        "iou_hidden_dim": 128,
    }
)

SAM_MODELS: dict[str, SamModel] = {
    "sam_vit_b": SamModel("sam_vit_b", image_size=1024, embed_dim=256, grid=64),
    "sam_vit_l": SamModel("sam_vit_l", image_size=1024, embed_dim=256, grid=64),
    "sam_vit_h": SamModel("sam_vit_h", image_size=1024, embed_dim=256, grid=64),
    "demo_sam": SamModel("demo_sam", image_size=256, embed_dim=64, grid=32, vit=_DEMO_VIT),
}


def sam_model(name: str) -> SamModel:
    """The line of a SAM model; ValueError, naming the choices, for an unknown one."""
    if name not in SAM_MODELS:
        raise ValueError(
            f"unknown SAM model {name!r}; choose one of: {', '.join(SAM_MODELS)}{did_you_mean(name, SAM_MODELS)}"
        )
    return SAM_MODELS[name]


def features_column(model: str) -> str:
    """Column of a SAM model's image embeddings."""
    return f"sam_features/{model}"
