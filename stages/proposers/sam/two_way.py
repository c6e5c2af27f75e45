"""SAM's mask decoder as arithmetic on image tokens [.., N, C], with fewer operations than segment_anything and the same result.

What :class:`segment_anything.modeling.MaskDecoder` computes, with four identities (exact except for rounding):

* The image tokens that enter layer 0 are the same for all prompts of an image, so what layer 0 computes from them is computed
  once.
* A prompt has 6 or 7 tokens, an image thousands: a projection of image tokens is folded into the few prompt tokens,
  ``q (X Wk)^T = (q Wk^T) X^T`` and ``A (X Wv) = (A X) Wv``; the output projection likewise, ``(A V) Wo = A (V Wo)``.
* A bias of the keys adds the same to a whole row of scores, which softmax ignores; rows of A sum to 1, so a bias of the
  values is added after it, and a bias that an image token gets is added to the few tokens that it attends to.
* The positional encoding of the grid and its projections depend only on the weights, and are computed once.

All of it can be differentiated: everything mode (:mod:`stages.proposers.sam.decoder`) and LISA
(:mod:`stages.train.lisa.decoder`) share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of an image share, for N image tokens with C channels.

    keys [1, N, C]: the image embedding with the embedding of "no mask". k, v: keys and values of layer 0's tokens-to-image
    attention, [1, heads, N, d]; q: queries of its image-to-tokens attention, same shape.
    """

    keys: Tensor
    k: Tensor
    v: Tensor
    q: Tensor


class TwoWay:
    """A decoder's weights, with everything that depends only on them; make a new one when they have changed.

    Args:
        prompt_encoder, mask_decoder: of any SAM; their weights are not copied.
        dtype: of the image tokens. In 16 bit the few tokens of a prompt, the scores and the logits stay float32.
    """

    def __init__(
        self, prompt_encoder: PromptEncoder, mask_decoder: MaskDecoder, dtype: torch.dtype = torch.float32
    ) -> None:
        self.prompt_encoder, self.decoder, self.dtype = prompt_encoder, mask_decoder, dtype
        self.transformer = mask_decoder.transformer
        self._wide = torch.promote_types(dtype, torch.float32)
        self.grid: tuple[int, int] = prompt_encoder.image_embedding_size
        layers = list(self.transformer.layers)
        self.position = prompt_encoder.get_dense_pe()[0].flatten(1).t().contiguous()
        to_image = [layer.cross_attn_token_to_image for layer in layers] + [self.transformer.final_attn_token_to_image]
        self._position_keys = [_heads(F.linear(self.position, part.k_proj.weight), part) for part in to_image]
        self._position_queries = [_heads(layer.cross_attn_image_to_token.q_proj(self.position),
                                         layer.cross_attn_image_to_token) for layer in layers]  # fmt: skip
        first, _, _, second, _ = mask_decoder.output_upscaling
        # ConvTranspose2d(kernel 2, stride 2) is a matrix per token: [C, 2, 2, c], the four pixels of the token's cell
        self._up1 = _as_matrix(first.weight).to(dtype), first.bias.repeat(4).to(dtype)
        self._up2 = _as_matrix(second.weight).to(dtype), second.bias.repeat(4).to(dtype)

    def keys(self, embeddings: Tensor) -> Tensor:
        """Image tokens [B, N, C] that enter layer 0, from image embeddings float [B, C, h, w]."""
        found: Tensor = embeddings.to(self._wide).flatten(2).mT + self.prompt_encoder.no_mask_embed.weight
        return found

    def image(self, embedding: Tensor) -> ImageTokens:
        """What the prompts of one image share, from its embedding float [1, C, h, w]."""
        keys = self.keys(embedding)
        first = self.transformer.layers[0]
        k, v = first.cross_attn_token_to_image.k_proj, first.cross_attn_token_to_image.v_proj
        with_position = keys + self.position
        return ImageTokens(
            keys.to(self.dtype),
            _heads(k(with_position), first.cross_attn_token_to_image),
            _heads(v(keys), first.cross_attn_token_to_image),
            _heads(first.cross_attn_image_to_token.q_proj(with_position), first.cross_attn_image_to_token),
        )

    def transform(self, image: ImageTokens | Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """The transformer: queries [B, 5 + P, C], of the IoU token, four mask tokens and the prompt; image tokens [B, N, C].

        Args:
            image: of one image for all prompts, or :meth:`keys` of an image for each.
            prompts: embedded, float [B, P, C].
        """
        output = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        tokens = torch.cat([output.expand(len(prompts), -1, -1), prompts], dim=1)
        shared, keys = (image, image.keys) if isinstance(image, ImageTokens) else (None, image.to(self.dtype))
        queries = tokens
        for number, layer in enumerate(self.transformer.layers):
            if layer.skip_first_layer_pe:
                queries = layer.self_attn(q=queries, k=queries, v=queries)
            else:
                with_position = queries + tokens
                queries = queries + layer.self_attn(q=with_position, k=with_position, v=queries)
            queries = layer.norm1(queries)
            attention = layer.cross_attn_token_to_image
            if shared is None:
                seen = self._to_image(number, attention, queries + tokens, keys)
            else:
                seen = _to_shared_image(attention, queries + tokens, shared)
            queries = layer.norm2(queries + seen)
            queries = layer.norm3(queries + layer.mlp(queries))
            keys = self._to_tokens(number, layer, queries + tokens, queries, keys, shared)
            shared = None
        attention = self.transformer.final_attn_token_to_image
        queries = queries + self._to_image(len(self.transformer.layers), attention, queries + tokens, keys)
        return self.transformer.norm_final_attn(queries), keys

    def masks(self, hyper: Tensor, keys: Tensor) -> Tensor:
        """Low-resolution logits float32 [B, M, 4h, 4w].

        Args:
            hyper: the output of the mask tokens' own networks, float [B, M, c].
            keys: image tokens [B, N, C] of :meth:`transform`.
        """
        norm, activation = self.decoder.output_upscaling[1], self.decoder.output_upscaling[2]
        cells = F.linear(keys, *self._up1).unflatten(-1, (4, -1))
        weight, bias = norm.weight.to(self.dtype), norm.bias.to(self.dtype)
        cells = activation(F.layer_norm(cells, cells.shape[-1:], weight, bias, norm.eps))
        cells = activation(F.linear(cells, *self._up2)).flatten(1, 2).unflatten(-1, (4, -1)).flatten(1, 2)
        logits = hyper @ cells.to(self._wide).transpose(1, 2)
        height, width = self.grid
        parts = logits.unflatten(2, (height, width, 2, 2, 2, 2))  # y, x of the token; y, x, y, x within its cell
        found: Tensor = parts.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5).flatten(2, 4)
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
        shared: ImageTokens | None,
    ) -> Tensor:
        """Image tokens attend to the tokens: the next image tokens [B, N, C] of each prompt."""
        part = layer.cross_attn_image_to_token
        heads, channels = part.num_heads, queries.shape[-1]
        key = _heads(part.k_proj(with_position), part)  # [B, heads, T, d]
        key = key * key.shape[-1] ** -0.5
        if shared is not None:
            scores = key @ shared.q.mT
        else:
            folded = key @ part.q_proj.weight.view(heads, -1, channels)
            scores = key @ self._position_queries[number].transpose(1, 2)
            scores = scores + (folded.flatten(1, 2).to(self.dtype) @ keys.transpose(1, 2)).unflatten(1, (heads, -1))
        weights = scores.softmax(2).flatten(1, 2).to(self.dtype)  # over the tokens: [B, heads * T, N]
        value = _heads(part.v_proj(queries), part)
        out = part.out_proj.weight.view(channels, heads, -1).permute(1, 2, 0)
        folded = (value @ out + part.out_proj.bias / heads).flatten(1, 2).to(self.dtype)
        norm = layer.norm4
        after = torch.baddbmm(keys.expand(len(queries), -1, -1), weights.transpose(1, 2), folded)
        return F.layer_norm(after, (channels,), norm.weight.to(self.dtype), norm.bias.to(self.dtype), norm.eps)


def _to_shared_image(part: Attention, queries: Tensor, image: ImageTokens) -> Tensor:
    """Tokens [B, T, C] attend to the image tokens that all prompts share."""
    query = _heads(part.q_proj(queries.flatten(0, 1)[None]), part)  # [1, heads, B * T, d]
    values = F.scaled_dot_product_attention(query, image.k, image.v)
    found: Tensor = part.out_proj(values.transpose(1, 2).flatten(2)).view(queries.shape)
    return found


def _heads(values: Tensor, part: Attention) -> Tensor:
    """[..., n, heads * d] -> [..., heads, n, d]."""
    found: Tensor = values.unflatten(-1, (part.num_heads, -1)).transpose(-2, -3)
    return found


def _as_matrix(kernel: Tensor) -> Tensor:
    """Weight [in, out, 2, 2] of a transposed convolution -> [4 * out, in] of a linear layer, pixel by pixel."""
    return kernel.permute(2, 3, 1, 0).reshape(-1, kernel.shape[0]).contiguous()
