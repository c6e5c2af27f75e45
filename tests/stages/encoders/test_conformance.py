"""What every encoder promises, whatever it is made of. Those whose weights are in this repository are run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.config import ROOT
from stages.encoders import ENCODERS, EncoderInput, build
from stages.encoders.common import Mask

WEIGHTS = {path.stem: path for path in (ROOT / "demo/models").glob("*.safetensors")}
HERE = [name for name, encoder in ENCODERS.items() if WEIGHTS.keys() >= {*encoder.weights}]


@pytest.fixture(scope="module", params=HERE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    return build(name, WEIGHTS, "cpu", 8)


def item(seed: int, masks: int = 3, size: tuple[int, int] = (48, 64)) -> EncoderInput:
    """A picture with masks of a quarter of it, the last one without a pixel."""
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    regions: list[Mask] = [np.zeros(size, bool) for _ in range(masks)]
    for number, mask in enumerate(regions[:-1]):
        mask[number * size[0] // 4 : size[0] // 2, : size[1] // 2] = True
    return EncoderInput(image, regions if masks else [])


def one(name: str, **how: Any) -> EncoderInput:
    return item(**how) if ENCODERS[name].kind == "mask" else item(how["seed"], masks=0, size=how.get("size", (48, 64)))


def test_one_vector_per_mask_or_token(name: str, model: Any) -> None:
    encoder = ENCODERS[name]
    found = model([one(name, seed=1), one(name, seed=2, masks=1, size=(30, 31)), one(name, seed=3, masks=0)])
    counts = [3, 1, 0] if encoder.kind == "mask" else [encoder.tokens] * 3
    assert [vectors.shape for vectors in found] == [(count, encoder.dim) for count in counts]
    assert {vectors.dtype for vectors in found} == {np.dtype(np.float32)}
    assert all(np.isfinite(vectors).all() for vectors in found)
    assert model([]) == []


def test_again_and_in_other_company_the_vectors_are_the_same(name: str, model: Any) -> None:
    items = [one(name, seed=seed) for seed in (1, 2)]
    together = model(items)
    for vectors, again, alone in zip(together, model(items), map(model, [[each] for each in items]), strict=True):
        np.testing.assert_array_equal(vectors, again)
        np.testing.assert_allclose(vectors, alone[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(together[0], together[1]), "it looks at the picture"


def test_each_mask_has_its_own_vector(name: str, model: Any) -> None:
    if ENCODERS[name].kind == "image":
        return
    whole = one(name, seed=1)
    first, second, _ = model([whole])[0]
    assert not np.allclose(first, second), "it looks at the mask"
    swapped = model([whole._replace(masks=[whole.masks[1], whole.masks[0]])])[0]
    np.testing.assert_allclose(swapped, [second, first], rtol=1e-4, atol=1e-5)
