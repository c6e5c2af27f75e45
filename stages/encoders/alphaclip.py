"""AlphaCLIP: one vector per mask, of the whole image with the mask as alpha, or of the masked pixels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from open_clip.transformer import QuickGELU
from torch.nn import functional as F

from stages.batch_size import over
from stages.encoders import Encoder, EncoderInput, Model, TextTower, Vectors
from stages.encoders.alpha_transforms import alpha_map, image_pixels
from stages.encoders.clip_text import text_embedder
from stages.encoders.clip_vit import AlphaVisionTransformer, load_alphaclip, load_clip, make_alphaclip
from stages.encoders.common import check_keys, load_into


def make_model(encoder: Encoder) -> AlphaVisionTransformer:
    """The architecture of an ENCODERS line, randomly initialised; ``model(image, alpha, of) -> [B, dim]``."""
    return make_alphaclip(encoder.options, encoder.dim)


def check(encoder: Encoder, path: Path) -> None:
    """WeightsError unless ``path`` holds the tensors of this line's AlphaCLIP, whichever CLIP it belongs to."""
    with torch.device("meta"):
        expected = make_model(encoder).state_dict()
    check_keys(load_alphaclip(path, None), expected, str(path))


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns the function that embeds the masks of images: one vector of length 1 per mask.

    An empty mask is not a special case: its alpha is "background" everywhere (mask_only: a black image).
    """
    *clip_path, path = (paths[name] for name in encoder.weights)
    state = load_alphaclip(path, clip_path[0] if clip_path else None)
    model = load_into(lambda: make_model(encoder), state, str(path), device)
    side, mask_only = encoder.options["input_px"], encoder.options.get("mask_only", False)
    stock = encoder.options.get("stock_transform", False)

    @torch.inference_mode()
    def embed(items: Sequence[EncoderInput]) -> list[Vectors]:
        whole = [] if mask_only else [image_pixels(item.image, side, stock, device) for item in items]
        regions = [(n, k) for n, item in enumerate(items) for k in range(len(item.masks))]

        def some(part: slice) -> Vectors:
            cut = [(n, items[n].masks[k]) for n, k in regions[part]]
            alphas = torch.stack([alpha_map(mask, side, device) for _, mask in cut])
            if mask_only:
                inputs = [image_pixels(items[n].image * mask[:, :, None], side, stock, device) for n, mask in cut]
                of = list(range(len(cut)))
            else:
                first = cut[0][0]
                inputs, of = whole[first : cut[-1][0] + 1], [n - first for n, _ in cut]
            found: Vectors = F.normalize(model(torch.cat(inputs), alphas, of).float(), dim=-1).cpu().numpy()
            return found

        parts = over(len(regions), masks_per_batch, some)
        vectors = np.concatenate([np.empty((0, encoder.dim), np.float32), *parts])
        sizes = [len(item.masks) for item in items]
        return [vectors[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]

    return embed


def build_text(encoder: Encoder, path: Path, device: str) -> TextTower:
    """CLIP's text tower. Its texts and AlphaCLIP's masks are in one space (Alpha-CLIP, section 3.2: it stays frozen)."""
    embed = text_embedder(load_clip(path), QuickGELU, encoder.dim, str(path), device)
    return TextTower(embed, lambda vectors: vectors.astype(np.float32))
