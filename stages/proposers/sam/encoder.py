"""SAM's image encoder (segment_anything.modeling.ImageEncoderViT) with fused attention, on the official weights.

Two identities, exact except for rounding:

* The decomposed relative position of a query and a key is ``rel_h(q)[row of k] + rel_w(q)[column of k]``: a scalar
  product of ``[rel_h(q), rel_w(q)]`` with two one-hot vectors. As extra dimensions of queries and keys it goes into
  ``scaled_dot_product_attention``, and no tokens-by-tokens map is stored. Zeros pad their number to a multiple of 8, as fused
  GPU kernels require in 16 bit.
* Windows are padded with zeros after the first norm. The qkv of a padded place is the bias alone and its output is thrown
  away, so both projections are applied only to the image's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.image_encoder import Attention, Block, ImageEncoderViT, get_rel_pos
from torch import Tensor, nn
from torch.nn import functional as F

from stages.batch_size import over
from stages.transforms import resize_longest_side

Pixels = npt.NDArray[np.uint8]
WIDTH_STEP = 8
"""Widths of queries and keys that the memory-efficient and the cuDNN kernel take in 16 bit are multiples of it."""


class FastEncoder:
    """``encoder(pixels)`` for float32 [B, 3, S, S] -> float32 [B, C, h, w].

    Args:
        encoder: the official module; its weights are not copied (but cast for 16 bit).
        dtype: of the blocks' matrices; input and output are float32.
    """

    def __init__(self, encoder: ImageEncoderViT, dtype: torch.dtype = torch.float32) -> None:
        self.encoder, self.dtype = encoder, dtype

    def __call__(self, pixels: Tensor) -> Tensor:
        """Embed a batch of preprocessed images."""
        kind, mixed = pixels.device.type, self.dtype != torch.float32
        with torch.autocast(kind, enabled=False):
            tokens = self.encoder.patch_embed(pixels)
            if self.encoder.pos_embed is not None:
                tokens = tokens + self.encoder.pos_embed
            with torch.autocast(kind, self.dtype if mixed else None, enabled=mixed):
                for block in self.encoder.blocks:
                    tokens = _block(block, tokens)
            # In float32: the squares in the neck's norms leave float16's range.
            found: Tensor = self.encoder.neck(tokens.float().permute(0, 3, 1, 2))
        return found


class ImageEncoder:
    """SAM's embeddings of images of any size.

    Args:
        sam: any SAM; its weights are not copied.
        images_per_batch: images that go through the encoder together.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype, images_per_batch: int) -> None:
        self.sam, self.encoder, self.images_per_batch = sam, FastEncoder(sam.image_encoder, dtype), images_per_batch
        self.side_px: int = sam.image_encoder.img_size

    def prepare(self, image: Pixels) -> Tensor:
        """An image for :meth:`encode`: uint8 [h, w, 3], resized; another thread may do it while the GPU is busy."""
        pixels = torch.as_tensor(resize_longest_side(image, self.side_px))
        return pixels.pin_memory() if self.sam.device.type == "cuda" else pixels

    @torch.inference_mode()
    def encode(self, prepared: Sequence[Tensor]) -> Tensor:
        """The embeddings of what :meth:`prepare` made, float32 [n, C, h, w]."""
        inputs = [pixels.to(self.sam.device, non_blocking=True) for pixels in prepared]
        batch = torch.stack([self.sam.preprocess(pixels.permute(2, 0, 1)) for pixels in inputs])
        return torch.cat(over(len(batch), self.images_per_batch, lambda part: self.encoder(batch[part])))


def _block(block: Block, tokens: Tensor) -> Tensor:
    """Tokens [B, h, w, C] through one block."""
    qkv = block.attn.qkv(block.norm1(tokens))
    height, width = tokens.shape[1:3]
    if side := block.window_size:
        windows = _windows(qkv, side, block.attn.qkv.bias)
        seen = _unwindow(_attend(block.attn, windows), side, height, width)
    else:
        seen = _attend(block.attn, qkv)
    tokens = tokens + block.attn.proj(seen)
    found: Tensor = tokens + block.mlp(block.norm2(tokens))
    return found


def _attend(attention: Attention, qkv: Tensor) -> Tensor:
    """Attention within each grid of qkv [B, h, w, 3 * C] -> [B, h, w, C]."""
    batch, height, width, _ = qkv.shape
    q, k, v = qkv.view(batch, height * width, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    dim = q.shape[-1]
    if attention.use_rel_pos:
        grid = q.unflatten(2, (height, width))
        with q.device:  # else the official code makes its indices on the CPU and waits for the transfer
            rows, columns = (
                get_rel_pos(height, height, attention.rel_pos_h),
                get_rel_pos(width, width, attention.rel_pos_w),
            )
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, rows.to(q.dtype))
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, columns.to(q.dtype))
        more = -(dim + height + width) % WIDTH_STEP
        nothing = q.new_zeros(more).expand(*q.shape[:-1], more)
        q = torch.cat([q * attention.scale, rel_h.flatten(2, 3), rel_w.flatten(2, 3), nothing], dim=-1)
        places = F.pad(_places(height, width, q), (0, more))
        k = torch.cat([k, places.expand(batch, attention.num_heads, -1, -1)], dim=-1)
        if q.device.type == "cpu":  # its fused kernel needs equal widths
            v = F.pad(v, (0, q.shape[-1] - dim))
        seen = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :dim]
    else:
        seen = F.scaled_dot_product_attention(q, k, v)
    return seen.transpose(1, 2).reshape(batch, height, width, -1)


def _places(height: int, width: int, like: Tensor) -> Tensor:
    """One-hot row and column of every place of a grid, [h * w, h + w]."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat([rows, columns], dim=-1)


def _windows(qkv: Tensor, side: int, padding: nn.Parameter | None) -> Tensor:
    """[B, h, w, C] -> [B * windows, side, side, C]; places outside of the image get ``padding`` [C]."""
    batch, height, width, channels = qkv.shape
    down, across = -(-height // side), -(-width // side)
    if (down * side, across * side) != (height, width):
        whole = qkv.new_zeros(batch, down * side, across * side, channels)
        if padding is not None:
            whole[:] = padding.to(qkv.dtype)
        whole[:, :height, :width] = qkv
        qkv = whole
    parts = qkv.view(batch, down, side, across, side, channels)
    return parts.transpose(2, 3).reshape(-1, side, side, channels)


def _unwindow(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of :func:`_windows`."""
    down, across = -(-height // side), -(-width // side)
    parts = windows.view(-1, down, across, side, side, windows.shape[-1]).transpose(2, 3)
    return parts.reshape(-1, down * side, across * side, windows.shape[-1])[:, :height, :width]
