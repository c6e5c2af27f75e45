from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from stages.checkpoints import WeightsError
from stages.encoders import Encoder, EncoderInput
from stages.encoders.openclip import build
from stages.transforms import CLIP_STATS, padded_input

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {
        "timm_model_name": "convnext_atto",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "mlp",
        "timm_drop": 0.0,
        "timm_drop_path": 0.1,
        "image_size": 64,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
}
LINE = Encoder("openclip", "mask", 320, ("w",), options={"model": "convnext_test", "input_px": 192})


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A tiny open_clip model of convnext_large_d_320's make, known to open_clip by name."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "convnext_test", CONFIG)
    torch.manual_seed(0)
    return open_clip.create_model("convnext_test").eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_vectors_equal_upsample_then_pool_of_open_clip_s_trunk(
    clip: torch.nn.Module, tmp_path: Path, suffix: str, photo: np.ndarray, regions: list[np.ndarray]
) -> None:
    (save_file if suffix == ".safetensors" else torch.save)(clip.state_dict(), tmp_path / f"w{suffix}")
    found = build(LINE, {"w": tmp_path / f"w{suffix}"}, "cpu", 8)([EncoderInput(photo, regions)])[0]
    assert found.shape == (5, 320)
    assert found.dtype == np.float32
    pixels = padded_input(photo, 192, 32, CLIP_STATS, "cpu")
    assert pixels.shape == (1, 3, 160, 192)  # 90 x 122 -> 142 x 192, rows padded to a multiple of 32
    with torch.no_grad():
        features = clip.visual.trunk.forward_features(pixels)
        pooled = clip.visual.head(clip.visual.trunk.forward_head(features))
        torch.testing.assert_close(F.normalize(pooled, dim=-1), clip.encode_image(pixels, normalize=True))
    content = F.pad(features, (0, 0, 0, 1))  # to the 6 x 6 square, with marks for the cells that exist
    exists = F.pad(torch.ones(1, 1, 5, 6), (0, 0, 0, 1))
    dense = F.interpolate(torch.cat([content, exists], 1), size=(24, 24), mode="bilinear")[0]
    for mask, vector in zip(regions, found, strict=True):
        square = torch.zeros(1, 1, 122, 122)
        square[0, 0, :90] = torch.from_numpy(mask)
        weights = F.interpolate(square, size=(24, 24), mode="bilinear", antialias=True)[0, 0]
        sums = (dense * weights).sum((1, 2))
        np.testing.assert_allclose(vector, sums[:-1] / (sums[-1] + 1e-8), atol=1e-5)


def test_another_model_s_file_is_refused(clip: torch.nn.Module, tmp_path: Path) -> None:
    state = {key: value for key, value in clip.state_dict().items() if "stages.3" not in key}
    torch.save(state, tmp_path / "w.bin")
    with pytest.raises(WeightsError, match=r"missing: trunk\.stages\.3"):
        build(LINE, {"w": tmp_path / "w.bin"}, "cpu", 8)
