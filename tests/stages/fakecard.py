"""A CUDA card that is not there: tensors without values on device cuda, and which attention kernel a real card would take.

torch's own ``can_use_flash_attention`` goes through its rules in order, and stops at the first that refuses. Without a card that is
the one about the hardware, at the latest. So the rules before it are asked of torch, and those after it are restated here; the
memory-efficient kernel asks for the hardware first, so all of its rules are restated (pytorch v2.11,
aten/src/ATen/native/transformers/cuda/sdp_utils.cpp).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional as F

CARDS = (80, 86, 89, 90)
"""Compute capabilities on which every attention should find a fused kernel (A100, RTX 3090, RTX 4090, H100 and H200)."""
HALF = (torch.float16, torch.bfloat16)
_NO_CARD = "requires a CUDA device"


@contextmanager
def fake_card() -> Iterator[FakeTensorMode]:
    """Tensors without values; ``device="cuda"`` works, autocast too, and tensors of two devices do not mix."""
    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.Tensor.pin_memory", lambda tensor: tensor),
        FakeTensorMode() as mode,
    ):
        yield mode


@dataclass(frozen=True)
class Attention:
    """One call of ``scaled_dot_product_attention``; widths are those of queries, keys and values."""

    widths: tuple[int, int, int]
    heads: tuple[int, int]
    tokens: tuple[int, int]
    dtype: torch.dtype
    causal: bool
    masked: bool
    gradient: bool
    dropout: float
    aligned: bool
    """Whether rows are contiguous, and begin where a kernel may read 16 bytes at once."""
    refused: str
    """What torch itself has against the flash kernel, whatever the card."""

    def flash(self, card: int) -> bool:
        """Whether a card takes FlashAttention."""
        width, backward_fits = self.widths[0], True
        if self.gradient and 86 <= card <= 89:
            backward_fits = width <= 192 or (width > 224 and not self.dropout)
        return (
            card >= 80
            and not self.refused
            and self.dtype in HALF
            and backward_fits
            and self.aligned
            and not (self.causal and self.tokens[0] != self.tokens[1])
            and self.heads[0] % self.heads[1] == 0
        )

    def efficient(self, card: int) -> bool:
        """Whether a card takes the memory-efficient kernel."""
        half = self.dtype in HALF
        step = 128 // (16 if half else 32) if card >= 80 or half else 1
        return (
            (half or self.dtype == torch.float32)
            and (card >= 80 or self.dtype != torch.bfloat16)
            and self.widths[0] == self.widths[1]
            and not any(width % step for width in self.widths)
            and self.heads[0] == self.heads[1]
            and self.aligned
        )

    def fused(self, card: int) -> bool:
        """Whether a card keeps no map of tokens by tokens."""
        return self.flash(card) or self.efficient(card)


@contextmanager
def attentions() -> Iterator[list[Attention]]:
    """Every attention that is computed in the meantime, through whatever layer."""
    found: list[Attention] = []
    real, native = F.scaled_dot_product_attention, torch._native_multi_head_attention

    def sdpa(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Tensor:
        names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
        given = {**dict(zip(names, args, strict=False)), **options}
        found.append(_asked(query, key, value, given))
        return real(query, key, value, *args, **options)

    def packed(query: Tensor, key: Tensor, value: Tensor, embed_dim: int, num_heads: int, *args: Any) -> Any:
        """What nn.MultiheadAttention calls in inference: torch asks about its heads in the same way."""
        heads = query.new_empty(len(query), query.shape[1], num_heads, embed_dim // num_heads).transpose(1, 2)
        found.append(_asked(heads, heads, heads, {}))
        return torch.empty_like(query), None

    with (
        mock.patch.object(F, "scaled_dot_product_attention", sdpa),
        mock.patch.object(torch, "_native_multi_head_attention", packed if native else None),
    ):
        yield found


def _asked(query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]) -> Attention:
    mask, dropout = given.get("attn_mask"), float(given.get("dropout_p", 0.0))
    causal, grouped = bool(given.get("is_causal", False)), bool(given.get("enable_gqa", False))
    assert query.device.type == key.device.type == value.device.type == "cuda"
    params = SDPAParams(query, key, value, mask, dropout, causal, grouped)
    every = (query, key, value)
    return Attention(
        (query.shape[-1], key.shape[-1], value.shape[-1]),
        (query.shape[-3], key.shape[-3]),
        (query.shape[-2], key.shape[-2]),
        query.dtype,
        causal,
        mask is not None,
        torch.is_grad_enabled() and any(part.requires_grad for part in every),
        dropout,
        all(part.stride(-1) == 1 and part.storage_offset() * part.element_size() % 16 == 0 for part in every),
        refused(can_use_flash_attention, params),
    )


def refused(asks: Callable[..., bool], params: SDPAParams) -> str:
    """What torch has against a kernel, from its standard error; "" where there is nothing, or no card alone."""
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            taken = asks(params, debug=True)
        finally:
            os.dup2(before, 2)
            os.close(before)
        file.seek(0)
        said = file.read().decode(errors="replace")
    return "" if taken or _NO_CARD in said else said.partition("Warning: ")[2].strip() or "no reason given"
