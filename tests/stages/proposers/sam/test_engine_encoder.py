"""The image encoder with fused attention and without work on padding: the official one, but for rounding."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from stages.proposers.sam.encoder import FastEncoder, _unwindow, _windows


def vit(side: int, window: int, **changes: object) -> ImageEncoderViT:
    options = {"use_rel_pos": True, "use_abs_pos": True, "qkv_bias": True} | changes
    encoder = ImageEncoderViT(
        img_size=side,
        patch_size=8,
        embed_dim=48,
        depth=3,
        num_heads=3,
        out_chans=16,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        window_size=window,
        global_attn_indexes=(1,),
        **options,
    ).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name or name.endswith("bias"):  # zero in new models
                parameter.normal_(std=0.5)
    return encoder


@pytest.mark.parametrize(  # heads of 16: widths of 24, 26, 30, 32 and 22, which zeros make 24 and 32
    ("side", "window", "changes"),
    [
        (64, 4, {}),
        (72, 4, {}),  # 9 patches: windows are filled up
        (40, 7, {}),  # one window larger than the image
        (64, 3, {"qkv_bias": False}),
        (64, 4, {"use_rel_pos": False}),
        (64, 4, {"use_abs_pos": False}),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_embedding_is_the_official_one(side: int, window: int, changes: dict[str, object], batch: int) -> None:
    torch.manual_seed(side + window)
    encoder = vit(side, window, **changes)
    pixels = torch.randn(batch, 3, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(FastEncoder(encoder)(pixels), encoder(pixels), rtol=1e-4, atol=2e-5)


def test_windows_come_back() -> None:
    values = torch.randn(2, 5, 7, 6)
    windows = _windows(values, 3, torch.nn.Parameter(torch.full((6,), 9.0)))
    assert windows.shape == (2 * 2 * 3, 3, 3, 6)
    assert bool((windows == 9.0).any())
    assert torch.equal(_unwindow(windows, 3, 5, 7), values)


def test_bfloat16_stays_close_and_gives_float32() -> None:
    torch.manual_seed(0)
    encoder = vit(64, 4)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        want, found = encoder(pixels), FastEncoder(encoder, torch.bfloat16)(pixels)
    assert found.dtype == torch.float32
    similarity = torch.nn.functional.cosine_similarity(want.flatten(1), found.flatten(1))
    assert float(similarity) >= 0.999
