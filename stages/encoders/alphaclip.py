"""AlphaCLIP: a vector a mask, of the whole image with the mask as alpha, or of the masked pixels alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from stages.batches import BatchSize
from stages.encoders import Encoder, Model
from stages.encoders.alpha_transforms import alpha_map, image_pixels
from stages.encoders.clip_vit import AlphaVisionTransformer, load_alphaclip, make_alphaclip
from stages.encoders.common import ImageArray, Mask, Vectors, load_into


def make_model(encoder: Encoder) -> AlphaVisionTransformer:
    """The architecture of an ENCODERS line, randomly initialised; ``model(image, alpha) -> [B, dim]``."""
    return make_alphaclip(encoder.options, encoder.dim)


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns ``(image, masks, sam_features=None) -> float32 [K, dim]``, each row of length 1.

    An empty mask is no special case: its alpha is "background" everywhere (mask_only: a black image).
    """
    *clip_path, path = (paths[name] for name in encoder.weights)
    state = load_alphaclip(path, clip_path[0] if clip_path else None)
    model = load_into(lambda: make_model(encoder), state, str(path), device)
    side, mask_only = encoder.options["input_px"], encoder.options.get("mask_only", False)
    stock = encoder.options.get("stock_transform", False)

    batches = BatchSize(masks_per_batch)

    @torch.inference_mode()
    def embed(image: ImageArray, masks: Sequence[Mask], sam_features: object = None) -> Vectors:
        whole = [] if mask_only else [image_pixels(image, side, stock, device)]

        def some(part: slice) -> Vectors:
            alphas, cuts = [], whole[:]
            for k in range(part.start, part.stop):
                mask = masks[k]
                alphas.append(alpha_map(mask, side, device))
                if mask_only:
                    cuts.append(image_pixels(image * mask[:, :, None], side, stock, device))
            batch = model(torch.cat(cuts), torch.stack(alphas))
            found: Vectors = F.normalize(batch.float(), dim=-1).cpu().numpy()
            return found

        return np.concatenate([np.empty((0, encoder.dim), np.float32), *batches.over(len(masks), some)])

    return embed
