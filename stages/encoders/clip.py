"""CLIP patch tokens as LLaVA and LISA take them: hidden layer -2, class token dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from open_clip.transformer import VisionTransformer

from stages.batch_size import over
from stages.encoders import Encoder, EncoderInput, Model, Vectors
from stages.encoders.alpha_transforms import aligned_image
from stages.encoders.clip_vit import load_clip_visual, make_clip
from stages.encoders.common import load_into
from stages.transforms import CLIP_STATS, ImageArray, normalise, resize_and_crop


def make_model(encoder: Encoder) -> VisionTransformer:
    """The architecture of an ENCODERS line, randomly initialised."""
    return make_clip(encoder.options, encoder.options["output_dim"])


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns the function that embeds whole images: float32 [tokens, dim] of each.

    Transform of Hugging Face's CLIPImageProcessor (shortest side bicubic, central square), or with the option
    ``whole_image`` AlphaCLIP's, which squashes everything into the square; features are
    ``CLIPVisionModel(...).hidden_states[-2][:, 1:]``, before the last layer norm (haotian-liu/LLaVA).
    """
    path = paths[encoder.weights[0]]
    transform = aligned_image if encoder.options.get("whole_image") else central_square
    model = load_into(lambda: make_model(encoder), load_clip_visual(path), str(path), device)
    layer = encoder.options["layers"] - 2

    @torch.inference_mode()
    def embed(items: Sequence[EncoderInput]) -> list[Vectors]:
        squares = [transform(item.image, encoder.options["input_px"]) for item in items]

        def some(part: slice) -> list[Vectors]:
            pixels = torch.cat([normalise(square, CLIP_STATS, device) for square in squares[part]])
            output = model.forward_intermediates(
                pixels, [layer], stop_early=True, intermediates_only=True, output_fmt="NLC"
            )
            return list(output["image_intermediates"][0].float().cpu().numpy())

        return list(chain.from_iterable(over(len(squares), len(squares), some)))

    return embed


def central_square(image: ImageArray, side_px: int) -> ImageArray:
    """Shortest side to ``side_px`` (bicubic), then the middle: the ends of a wide image are cut off."""
    return resize_and_crop(image, side_px, lambda surplus: surplus // 2)
