"""The training benchmark's own code, at small sizes on the CPU: every side computes the same, and nothing is left out."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch.nn import functional as F

from demo.data.dataset import FURTHER
from pipeline.config import ROOT, InputError
from pipeline.params_file import load_settings
from stages.weights import WEIGHTS
from tests.benchmarks import train
from tests.benchmarks.training import first_batch, real_size
from tests.benchmarks.training.flops import flops_of
from tests.benchmarks.training.jsonl import Lines, write_jsonl
from tests.benchmarks.training.real_size import BATCH_SIZE, Sizes
from tests.benchmarks.training.rerun import Rerun
from tests.benchmarks.training.setting import SIDES, Setting, open_setting, rerun_columns, too_small, vector_columns
from tests.benchmarks.training.sources import open_source
from tests.benchmarks.training.tables import HEADER, report_first_batch, report_system

SMALL = Sizes("demo_sam", "demo_alphaclip", "demo_dinov2", "demo_clip", 256, 4, "float32")
"""The path of real sizes, with models that a CPU can run."""
OPTIONS = argparse.Namespace(sides=list(SIDES), warm_up=1, steps=1, rounds=1)
KINDS = {"elisa": "ELISA", "llmseg": "LLM-Seg", "lisa": "LISA"}


def call(do: Any, cores: list[int], timeout_s: float = 0, **task: Any) -> Any:
    """A cell in this process."""
    return json.loads(json.dumps(do(**task)))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Four images whose store was made with random weights."""
    published = dict(WEIGHTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real_size, "cell", call)
        try:
            return real_size.prepare(SMALL, tmp_path_factory.mktemp("small"), "cpu", 4, [0], [])
        finally:
            WEIGHTS.update(published)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "cell", call)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("system", KINDS)
def test_every_side_computes_the_same(setting: Setting, tmp_path: Path, system: str) -> None:
    found = train.measure(setting, system, OPTIONS, tmp_path / system, [0])
    losses = {side: cells[0]["loss"] for side, cells in found["cells"].items()}
    for side in SIDES:
        assert losses[side] == pytest.approx(losses["a"], rel=1e-3), side
    assert_same_vectors(setting, system, tmp_path / system)
    asked = sum(len(record.targets) for record in setting.open(["targets"]))
    assert 4 < asked <= 4 * (1 + FURTHER)
    assert found["batches"] == asked / BATCH_SIZE
    flops = found["flops"]
    assert flops["a"] == 0 < flops["c1"] < flops["c2"]
    assert (flops["b"] > 0) == (system == "elisa")
    cells = {side: cells[0] for side, cells in found["cells"].items()}
    assert all(cells[side]["encoding"] == [0] for side in SIDES if not flops[side])
    assert all(cells[side]["encoding"][0] > 0 for side in SIDES if flops[side])
    assert cells["b"]["start_bytes"] > (tmp_path / system / "features.jsonl").stat().st_size
    text = report_system(system, {**found, "no ratio": ""})
    for side in SIDES.values():
        assert f"| {side} |" in text
    assert "the same within" in text
    assert "over (c2), 10x" in text
    assert all(line.count("|") == len(HEADER) + 1 for line in text.splitlines()[2:8])


def assert_same_vectors(setting: Setting, system: str, folder: Path) -> None:
    """Compare vectors up to the store's rounding to float16, as an equal loss might hide a difference."""
    columns = vector_columns(setting, system)
    split = setting.open()
    ours, *others = (next(iter(open_source(setting, system, side, split, folder))) for side in SIDES)
    derived = {"bbox", "overlap", "iou", "iop"} & set(ours)
    for other in others:
        assert set(other) == set(ours)
        for key in columns:
            assert float(ours[key].float().std()) > 0.01
            torch.testing.assert_close(other[key].float(), ours[key].float(), atol=2e-3, rtol=2e-3)
        for key in derived:
            for found, wanted in zip(other[key], ours[key], strict=True):
                np.testing.assert_allclose(flat(found), flat(wanted), atol=1e-6)


def flat(values: Any) -> np.ndarray:
    return np.concatenate([np.empty(0), *(np.asarray(value, np.float64).reshape(-1) for value in values)])


def test_what_is_rerun_is_what_the_originals_run(setting: Setting) -> None:
    clip, dino, sam = "image_features/demo_clip", "mask_embeddings/sam/demo_dinov2", "sam_features/demo_sam"
    assert rerun_columns(setting, "elisa", "c1") == {clip} == rerun_columns(setting, "elisa", "b")
    assert rerun_columns(setting, "llmseg", "c1") == {clip, dino}
    assert rerun_columns(setting, "lisa", "c1") == {clip, sam}
    everything = rerun_columns(setting, "elisa", "c2")
    assert {
        "masks/sam",
        "match/sam/instances",
        sam,
        clip,
        "centered/bench/instance_embeddings/sam/demo_alphaclip",
    } <= everything


def test_the_original_s_encoder_of_sam_is_segment_anything_s(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    forward = ImageEncoderViT.forward

    def spy(self: ImageEncoderViT, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.shape)
        return forward(self, pixels)

    monkeypatch.setattr(ImageEncoderViT, "forward", spy)
    image = np.zeros((40, 60, 3), np.uint8)
    name = "sam_features/demo_sam"
    made = [Rerun(setting, {name}, official)([image], {})[name][0] for official in (False, True)]
    assert len(seen) == 1
    np.testing.assert_allclose(*made, atol=2e-3)


def test_json_holds_what_the_store_holds(setting: Setting, tmp_path: Path) -> None:
    write_jsonl(setting, "elisa", str(tmp_path / "lines"))
    lines = Lines(setting, "elisa", tmp_path / "lines")
    for record in setting.open():
        masks, instances = lines.masks(record.path)
        centered = "centered/bench/{}_embeddings/sam/demo_alphaclip"
        np.testing.assert_allclose(masks, record[centered.format("mask")], atol=2e-3)
        np.testing.assert_allclose(instances, record[centered.format("instance")], atol=2e-3)
        assert len(lines.lines[record.path]["gt_shapes"]) == len(record.instances)


def test_flops_of_attention_are_those_of_its_products() -> None:
    q, k, v = (torch.randn(2, 4, length, 16, requires_grad=True) for length in (5, 7, 7))
    forward = 2 * 2 * 4 * 5 * 7 * (16 + 16)
    assert flops_of(lambda: F.scaled_dot_product_attention(q, k, v)) == forward
    assert flops_of(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward()) == forward * 7 // 2
    frozen = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval().requires_grad_(False)
    tokens = torch.randn(3, 6, 16)
    with torch.inference_mode():
        found = flops_of(lambda: frozen(tokens, tokens, tokens, need_weights=False))
    assert found == 2 * 3 * 6 * 16 * 4 * 16 + 2 * 3 * 2 * 6 * 6 * (8 + 8)


def test_no_ratio_of_a_small_language_model_beside_a_large_tower(setting: Setting) -> None:
    towers = real_size.tower_sizes(setting, "llmseg")
    assert set(towers) == {"demo_clip", "demo_dinov2", "demo_sam"}
    assert too_small(2_500_000, {"clip": 900_000, "sam": 2_400_000}) == ""
    assert "sam has 636.0 million" in too_small(2_500_000, {"clip": 300_000_000, "sam": 636_000_000})


def test_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", os.fsync)  # put back behind the test
    settings = load_settings(ROOT / "params.yaml")
    made = first_batch.make(str(tmp_path / "store"), 20, 8)
    runs = [first_batch.first(settings, str(tmp_path / "store"))]
    assert runs[0]["whole_s"] == pytest.approx(runs[0]["open_s"] + runs[0]["batch_s"])
    document = {"images": 20, "shard_images": 8, **made, "runs": {"warm": runs, "cold": runs}}
    assert "| the page cache is cold |" in report_first_batch(document)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_on_one(tmp_path: Path) -> None:
    options = argparse.Namespace(systems=["elisa"], device="cuda", real_size=True)
    document = {"machine": {}, "versions": {}, "cores": 2, "device": "cuda"}
    assert train.chosen(options, tmp_path, [0], document) is None
    assert train.report(document).startswith("not measured: no CUDA device")


def test_without_data_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make repro"):
        open_setting(ROOT / "params.yaml", "cpu", [f"store={tmp_path}"])
