from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch.nn import functional as F

from stages.encoders import ENCODERS, Encoder, EncoderInput, build
from stages.encoders import sam as adapter
from stages.proposers.sam.model import new_sam

SPEC = SimpleNamespace(weights="w", image_size=128, embed_dim=24, grid=8)
LINE = Encoder("sam", "mask", 24, ("w",), options={"model": "tiny"}, reads_sam_features=True)


@pytest.fixture
def sam(monkeypatch: pytest.MonkeyPatch) -> Sam:
    """A tiny segment_anything model that build_sam returns for the name "tiny"."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=128,
        patch_size=16,
        embed_dim=32,
        depth=2,
        num_heads=2,
        out_chans=24,
        use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )
    transformer = TwoWayTransformer(depth=1, embedding_dim=24, num_heads=2, mlp_dim=16)
    prompts = PromptEncoder(24, (8, 8), (128, 128), mask_in_chans=4)
    model = Sam(encoder, prompts, MaskDecoder(transformer_dim=24, transformer=transformer)).eval()
    known = {"tiny": model}
    monkeypatch.setattr(adapter, "build_sam", lambda name, path, device: known[name].to(device))
    monkeypatch.setitem(adapter.SAM_MODELS, "tiny", SPEC)
    return model


def upsample_then_pool(features: torch.Tensor, mask: np.ndarray, rows: int) -> np.ndarray:
    exists = torch.ones(1, 1, 8, 8)
    exists[:, :, rows:] = 0
    dense = F.interpolate(torch.cat([features * exists, exists], 1), size=(32, 32), mode="bilinear")[0]
    square = torch.zeros(1, 1, 122, 122)
    square[0, 0, :90] = torch.from_numpy(mask)
    weights = F.interpolate(square, size=(32, 32), mode="bilinear", antialias=True)[0, 0]
    sums = (dense * weights).sum((1, 2))
    return (sums[:-1] / (sums[-1] + 1e-8)).numpy()


def test_vectors_are_pooled_from_the_predictor_s_embedding(
    sam: Sam, photo: np.ndarray, regions: list[np.ndarray]
) -> None:
    predictor = SamPredictor(sam)
    predictor.set_image(photo)
    features = predictor.get_image_embedding()
    model = adapter.build(LINE, {"w": Path("w.pth")}, "cpu", 8)
    computed = model([EncoderInput(photo, regions)])[0]
    assert computed.shape == (5, 24)
    assert computed.dtype == np.float32
    for mask, vector in zip(regions, computed, strict=True):
        # 90 x 122 -> 94 x 128 px: the image touches 6 of the 8 rows of cells
        np.testing.assert_allclose(vector, upsample_then_pool(features, mask, rows=6), atol=1e-5)
    stored = model([EncoderInput(photo, regions, features[0].numpy().astype(np.float16))])[0]
    np.testing.assert_allclose(stored, computed, atol=2e-3)


def test_stored_features_need_no_model(
    monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, regions: list[np.ndarray]
) -> None:
    monkeypatch.setitem(adapter.SAM_MODELS, "tiny", SPEC)
    features = np.ones((24, 8, 8), np.float16)
    features[:, 6:] = 1000  # padding must not leak in
    found = adapter.build(LINE, {}, "cpu", 8)([EncoderInput(photo, regions, features)])[0]
    np.testing.assert_allclose(found[:4], 1, rtol=1e-4)
    assert not found[4].any()
    assert adapter.build(LINE, {}, "cpu", 8)([EncoderInput(photo, [], features)])[0].shape == (0, 24)


def test_every_sam_model_is_an_encoder() -> None:
    for name, spec in adapter.SAM_MODELS.items():
        assert ENCODERS[name].dim == spec.embed_dim
        assert ENCODERS[name].weights == (spec.weights,)
        assert ENCODERS[name].reads_sam_features


def test_demo_sam_through_build(tmp_path: Path, photo: np.ndarray, regions: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    sam = new_sam("demo_sam").eval()
    save_file(sam.state_dict(), tmp_path / "demo_sam.safetensors")
    found = build("demo_sam", {"demo_sam": tmp_path / "demo_sam.safetensors"}, "cpu", 8)(
        [EncoderInput(photo, regions)]
    )[0]
    assert found.shape == (5, ENCODERS["demo_sam"].dim)
    predictor = SamPredictor(sam)
    predictor.set_image(photo)
    features = predictor.get_image_embedding()[0]
    # the pixel at row 40, column 100 lies in cell (10, 26) of 32 x 32 over 122 px; pooling is bilinear around it
    assert torch.cosine_similarity(torch.from_numpy(found[2]), features[:, 10, 26], dim=0) > 0.9
