"""SAM's prompt encoder and mask decoder for many single-point prompts of one image.

Everything mode does not use the single-mask token among the four mask tokens, so no mask is computed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from stages.proposers.sam.two_way import ImageTokens, TwoWay

MASKS = 3
"""Masks per prompt (``multimask_output``)."""


@dataclass(frozen=True)
class Decoded:
    """Decoded prompts: ``iou`` float32 [B, 3], ``hyper`` [B, 3, c] and image tokens ``keys`` [B, N, C]."""

    iou: Tensor
    hyper: Tensor
    keys: Tensor


class PointDecoder:
    """Decodes points of one image after the other.

    Args:
        sam: any SAM; its weights are not copied.
        dtype: of the image tokens, as :class:`TwoWay` says.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype = torch.float32) -> None:
        self.prompt_encoder, self.decoder, self.dtype = sam.prompt_encoder, sam.mask_decoder, dtype
        self.two_way = TwoWay(sam.prompt_encoder, sam.mask_decoder, dtype)

    def image(self, embedding: Tensor) -> ImageTokens:
        """What the prompts of an image share, from its embedding float [C, h, w]."""
        return self.two_way.image(embedding[None])

    def decode(self, image: ImageTokens, points: Tensor) -> Decoded:
        """Decode everything except the masks.

        Args:
            points: float [B, 2], xy in the frame of the image that the encoder saw, px.
        """
        queries, keys = self.two_way.transform(image, self.prompts(points))
        heads = list(self.decoder.output_hypernetworks_mlps)[1:]
        hyper = torch.stack([head(queries[:, 2 + number]) for number, head in enumerate(heads)], dim=1)
        return Decoded(self.decoder.iou_prediction_head(queries[:, 0])[:, 1:], hyper, keys)

    def prompts(self, points: Tensor) -> Tensor:
        """The official prompt encoder's embeddings, float32 [B, 2, C], of foreground points float [B, 2], one per prompt.

        The official code selects the points of each label by boolean index, for which the CPU has to wait for the GPU six
        times. Here the labels are known: a point, and the padding for the missing box.
        """
        encoder = self.prompt_encoder
        points = points[:, None] + 0.5  # the middle of a pixel
        padded = torch.cat(
            [points, torch.zeros_like(points)], dim=1
        )  # also for the padding, so that the product is the same to the last bit
        places = encoder.pe_layer.forward_with_coords(padded, encoder.input_image_size)
        padding = encoder.not_a_point_embed.weight.expand(len(points), -1)
        return torch.stack([places[:, 0] + encoder.point_embeddings[1].weight, padding], dim=1)

    def masks(self, decoded: Decoded, rows: Tensor | None = None) -> Tensor:
        """Low-resolution logits float32 [B, 3, 4h, 4w] of all prompts, or of those at ``rows``."""
        keys = decoded.keys if rows is None else decoded.keys[rows]
        hyper = decoded.hyper if rows is None else decoded.hyper[rows]
        return self.two_way.masks(hyper, keys)
