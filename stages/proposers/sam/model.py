"""Builds SAM from the official modules and a checkpoint file (facebookresearch/segment-anything)."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from stages.checkpoints import reading
from stages.proposers.sam import SAM_MODELS, SamModel

PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


def build_sam(name: str, path: Path, device: str) -> Sam:
    """The SAM called `name` with the weights of `path`, float32, in eval mode, on `device`.

    `path` is a `.pth` state dict as Meta publishes it (read with weights_only=True) or a `.safetensors` file with the
    same keys; float16 weights are read as float32. Raises WeightsError if the file is not a checkpoint, ValueError if it is a
    checkpoint of another model.
    """
    sam = new_sam(name)
    state = _read_state(path)
    expected = sam.state_dict()
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        found = "; ".join(
            f"{len(keys)} {what}, such as {keys[0]}"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
            if keys
        )
        raise ValueError(
            f"{path} is no {name} checkpoint: of its {len(state)} tensors {found}. Expected the {len(expected)} tensors "
            f"of segment_anything's {name}; name the model that the file belongs to (one of {', '.join(SAM_MODELS)})"
        )
    sam.load_state_dict(state)
    return sam.eval().to(device)


def new_sam(name: str) -> Sam:
    """The SAM called `name` with random weights; an unknown name raises ValueError."""
    if name not in SAM_MODELS:
        raise ValueError(f"no SAM is called {name!r}: expected one of {', '.join(SAM_MODELS)}")
    model = SAM_MODELS[name]
    if model.vit is None:
        return sam_model_registry[name.removeprefix("sam_")](checkpoint=None)
    return _small_sam(model, dict(model.vit))


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    with reading(path, "SAM checkpoint"):
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds {type(state).__name__}: expected a state dict that maps names to tensors")
    return {key: value.float() for key, value in state.items()}


def _small_sam(model: SamModel, vit: dict[str, Any]) -> Sam:
    """The official classes at other sizes, put together as segment_anything.build_sam._build_sam does."""
    grid = (model.grid, model.grid)
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=vit["depth"],
            embed_dim=vit["dim"],
            img_size=model.image_size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=vit["heads"],
            patch_size=vit["patch_size"],
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=vit["global_blocks"],
            window_size=vit["window_size"],
            out_chans=model.embed_dim,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=model.embed_dim,
            image_embedding_size=grid,
            input_image_size=(model.image_size, model.image_size),
            mask_in_chans=vit["mask_in_chans"],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=model.embed_dim, mlp_dim=vit["decoder_mlp_dim"], num_heads=vit["decoder_heads"]
            ),
            transformer_dim=model.embed_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=vit["iou_hidden_dim"],
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    ).eval()
