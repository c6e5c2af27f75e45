"""SAM's prompt encoder and mask decoder for many single-point prompts of one image: less arithmetic, the same result.

What :class:`segment_anything.modeling.MaskDecoder` computes, with four identities (exact but for rounding):

* The image tokens that enter layer 0 are the same for all prompts, so what layer 0 makes of them is made once an image.
* A prompt has 7 tokens, an image thousands: a projection of image tokens is folded into the tokens that meet it,
  ``q (X Wk)^T = (q Wk^T) X^T`` and ``A (X Wv) = (A X) Wv``; the output projection likewise, ``(A V) Wo = A (V Wo)``.
* A bias of the keys adds the same to a whole row of scores, which softmax ignores; rows of A sum to 1, so a bias of the
  values is added behind it.
* The positional encoding of the grid, and its projections, belong to the weights.

Of the four mask tokens the single-mask one is read by nobody in everything mode, so it gets no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention
from torch import Tensor
from torch.nn import functional as F

MASKS = 3
"""Masks a prompt (``multimask_output``)."""


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of an image share, of N image tokens with C channels.

    keys [N, C]: the image embedding with the embedding of "no mask". k, v: keys and values of layer 0's tokens-to-image
    attention, [heads, N, d]; q: queries of its image-to-tokens attention, same shape.
    """

    keys: Tensor
    k: Tensor
    v: Tensor
    q: Tensor


@dataclass(frozen=True)
class Decoded:
    """Prompts on their way: ``iou`` float32 [B, 3], ``hyper`` [B, 3, c] and image tokens ``keys`` [B, N, C]."""

    iou: Tensor
    hyper: Tensor
    keys: Tensor


class PointDecoder:
    """Decodes points of one image after the other.

    Args:
        sam: any SAM; its weights are used where they are.
        dtype: of the image tokens. In 16 bit the 7 tokens of a prompt, the scores and the logits stay float32.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype = torch.float32) -> None:
        self.sam, self.dtype = sam, dtype
        self._wide = torch.promote_types(dtype, torch.float32)
        self.decoder, self.transformer = sam.mask_decoder, sam.mask_decoder.transformer
        self.grid: tuple[int, int] = sam.prompt_encoder.image_embedding_size
        layers = list(self.transformer.layers)
        self.position = sam.prompt_encoder.get_dense_pe()[0].flatten(1).t().contiguous()
        to_image = [layer.cross_attn_token_to_image for layer in layers] + [self.transformer.final_attn_token_to_image]
        self._position_keys = [_heads(F.linear(self.position, part.k_proj.weight), part) for part in to_image]
        self._position_queries = [_heads(layer.cross_attn_image_to_token.q_proj(self.position),
                                         layer.cross_attn_image_to_token) for layer in layers]  # fmt: skip
        first, _, _, second, _ = self.decoder.output_upscaling
        # ConvTranspose2d(kernel 2, stride 2) is a matrix a token: [C, 2, 2, c], the four pixels of the token's cell
        self._up1 = _as_matrix(first.weight).to(dtype), first.bias.repeat(4).to(dtype)
        self._up2 = _as_matrix(second.weight).to(dtype), second.bias.repeat(4).to(dtype)

    def image(self, embedding: Tensor) -> ImageTokens:
        """What the prompts of an image share, from its embedding float [C, h, w]."""
        keys = embedding.to(self._wide).flatten(1).t() + self.sam.prompt_encoder.no_mask_embed.weight
        first = self.transformer.layers[0]
        k, v = first.cross_attn_token_to_image.k_proj, first.cross_attn_token_to_image.v_proj
        with_position = keys + self.position
        return ImageTokens(
            keys.to(self.dtype),
            _heads(k(with_position), first.cross_attn_token_to_image),
            _heads(v(keys), first.cross_attn_token_to_image),
            _heads(first.cross_attn_image_to_token.q_proj(with_position), first.cross_attn_image_to_token),
        )

    def decode(self, image: ImageTokens, points: Tensor) -> Decoded:
        """Everything but the masks.

        Args:
            points: float [B, 2], xy in the frame of the image that the encoder saw, px.
        """
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        prompt, _ = self.sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        output = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        tokens = torch.cat([output.expand(len(points), -1, -1), prompt], dim=1)
        queries, keys = tokens, image.keys
        for number, layer in enumerate(self.transformer.layers):
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(q=queries, k=queries, v=queries)
            else:
                with_position = queries + tokens
                queries = queries + layer.self_attn(q=with_position, k=with_position, v=queries)
            queries = layer.norm1(queries)
            attention = layer.cross_attn_token_to_image
            if number == 0:
                seen = _shared_to_image(attention, queries + tokens, image)
            else:
                seen = self._to_image(number, attention, queries + tokens, keys)
            queries = layer.norm2(queries + seen)
            queries = layer.norm3(queries + layer.mlp(queries))
            keys = self._to_tokens(number, layer, queries + tokens, queries, keys, image)
        attention = self.transformer.final_attn_token_to_image
        queries = queries + self._to_image(len(self.transformer.layers), attention, queries + tokens, keys)
        queries = self.transformer.norm_final_attn(queries)
        heads = list(self.decoder.output_hypernetworks_mlps)[1:]
        hyper = torch.stack([head(queries[:, 2 + number]) for number, head in enumerate(heads)], dim=1)
        return Decoded(self.decoder.iou_prediction_head(queries[:, 0])[:, 1:], hyper, keys)

    def masks(self, decoded: Decoded, rows: Tensor | None = None) -> Tensor:
        """Low-resolution logits float32 [B, 3, 4h, 4w] of all prompts, or of those at ``rows``."""
        keys = decoded.keys if rows is None else decoded.keys[rows]
        hyper = decoded.hyper if rows is None else decoded.hyper[rows]
        norm, activation = self.decoder.output_upscaling[1], self.decoder.output_upscaling[2]
        cells = F.linear(keys, *self._up1).unflatten(-1, (4, -1))
        weight, bias = norm.weight.to(self.dtype), norm.bias.to(self.dtype)
        cells = activation(F.layer_norm(cells, cells.shape[-1:], weight, bias, norm.eps))
        cells = activation(F.linear(cells, *self._up2)).flatten(1, 2).unflatten(-1, (4, -1)).flatten(1, 2)
        logits = hyper @ cells.to(self._wide).transpose(1, 2)
        height, width = self.grid
        parts = logits.view(-1, MASKS, height, width, 2, 2, 2, 2)  # y, x of the token; y, x, y, x within its cell
        found: Tensor = parts.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(-1, MASKS, 4 * height, 4 * width)
        return found

    def _to_image(self, number: int, part: Attention, queries: Tensor, keys: Tensor) -> Tensor:
        """Tokens [B, T, C] attend to each prompt's own image tokens [B, N, C]."""
        heads = part.num_heads
        query = _heads(part.q_proj(queries), part)  # [B, heads, T, d]
        query = query * query.shape[-1] ** -0.5
        folded = query @ part.k_proj.weight.view(heads, -1, queries.shape[-1])
        position = (query @ self._position_keys[number].transpose(1, 2)).flatten(1, 2).to(self.dtype)
        scores = torch.baddbmm(position, folded.flatten(1, 2).to(self.dtype), keys.mT)
        weights = scores.softmax(-1, dtype=self._wide).to(self.dtype)
        seen = (weights @ keys).to(self._wide).unflatten(1, (heads, -1))
        values = seen @ part.v_proj.weight.view(heads, -1, queries.shape[-1]).transpose(1, 2)
        found: Tensor = part.out_proj(values.transpose(1, 2).flatten(2) + part.v_proj.bias)
        return found

    def _to_tokens(
        self,
        number: int,
        layer: Any,
        with_position: Tensor,
        queries: Tensor,
        keys: Tensor,
        image: ImageTokens,
    ) -> Tensor:
        """Image tokens attend to the tokens: the next image tokens [B, N, C] of each prompt."""
        part = layer.cross_attn_image_to_token
        heads, channels = part.num_heads, queries.shape[-1]
        key = _heads(part.k_proj(with_position), part)  # [B, heads, T, d]
        key = key * key.shape[-1] ** -0.5
        if number == 0:
            scores = key @ image.q.transpose(1, 2)
        else:
            folded = key @ part.q_proj.weight.view(heads, -1, channels)
            scores = key @ self._position_queries[number].transpose(1, 2)
            scores = scores + (folded.flatten(1, 2).to(self.dtype) @ keys.transpose(1, 2)).unflatten(1, (heads, -1))
        weights = scores.softmax(2).flatten(1, 2).to(self.dtype)  # over the tokens: [B, heads * T, N]
        value = _heads(part.v_proj(queries), part)
        out = part.out_proj.weight.view(channels, heads, -1).permute(1, 2, 0)
        folded = (value @ out).flatten(1, 2).to(self.dtype)
        before = (keys + part.out_proj.bias.to(self.dtype)).expand(len(queries), -1, -1)
        norm = layer.norm4
        after = torch.baddbmm(before, weights.transpose(1, 2), folded)
        return F.layer_norm(after, (channels,), norm.weight.to(self.dtype), norm.bias.to(self.dtype), norm.eps)


def _shared_to_image(part: Attention, queries: Tensor, image: ImageTokens) -> Tensor:
    """Tokens [B, T, C] attend to the image tokens that all prompts share."""
    query = _heads(part.q_proj(queries).flatten(0, 1), part)  # [heads, B * T, d]
    values = F.scaled_dot_product_attention(query[None], image.k[None], image.v[None])[0]
    found: Tensor = part.out_proj(values.transpose(0, 1).flatten(1).view(*queries.shape[:2], -1))
    return found


def _heads(values: Tensor, part: Attention) -> Tensor:
    """[..., n, heads * d] -> [..., heads, n, d]."""
    found: Tensor = values.unflatten(-1, (part.num_heads, -1)).transpose(-2, -3)
    return found


def _as_matrix(kernel: Tensor) -> Tensor:
    """Weight [in, out, 2, 2] of a transposed convolution -> [4 * out, in] of a linear layer, pixel by pixel."""
    return kernel.permute(2, 3, 1, 0).reshape(-1, kernel.shape[0]).contiguous()
