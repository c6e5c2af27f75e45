"""The extraction benchmark's own code, on a tiny model: both sides agree, and no time is counted twice or left out."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.benchmarks import extract
from tests.benchmarks.extraction import embedding, everything, pipeline
from tests.benchmarks.extraction.stopwatch import HOST, stopwatch


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return everything.run("small", 128, 4, "cpu", torch.float32, 1, autocast=True)


def test_both_sides_give_the_same_records(found: dict[str, dict[str, float]]) -> None:
    assert found["agreement"]["mean best IoU"] == pytest.approx(1.0, abs=1e-3)
    assert found["post"]["identical"] is True
    assert found["work"]["candidates"] == 48


def test_every_stage_is_timed_on_both_sides(found: dict[str, dict[str, dict[str, float]]]) -> None:
    for stages in found["stages"].values():
        assert set(stages) == set(everything.STAGES)
        assert all(stages[name] > 0 for name in ("encode", "decode", "post", "NMS", "masks + RLE", "host"))


def test_the_report_holds_every_table(found: dict[str, object]) -> None:
    document = {
        "machine": "a",
        "versions": "b",
        "setting": "c",
        "everything": {"float32": found},
        "memory": {"ours": 1, "reference": 4},
        "pooling": {"ours": 1.0, "reference": 8.0},
        "AlphaCLIP": {"ours": 1.0, "reference": 1.1},
        "pipeline": {
            "setting": "d",
            "images per second": {"ours": 6.0, "reference": 2.0},
            "masks per image": 9.0,
            "GPU busy, %": 91.0,
        },
    }
    text = extract.report(document)
    assert "| pooling | 8000.0 | 1000.0 | 8.0 |" in text
    assert "(0.25 of it)" in text
    assert "end to end, the reference in bf16 autocast" in text
    assert "6.00 images/s, reference 2.00 (3.0 times). GPU busy: 91 %." in text
    assert "outside" in text  # 16 points are no real work, and the report says so


def test_what_is_called_within_a_stage_belongs_to_it() -> None:
    def inner() -> None:
        time.sleep(0.02)

    work = SimpleNamespace(inner=inner, outer=lambda: work.inner())
    with stopwatch([(work, "inner", "a"), (work, "outer", "b")]) as spent:
        work.outer()
        time.sleep(0.02)
    assert set(spent) == {"b", HOST}
    assert all(seconds >= 0.015 for seconds in spent.values())
    assert work.inner is inner


def test_pooling_is_that_of_upsampled_features() -> None:
    result = embedding.pooling(3, 8, 8, (40, 60), "cpu", 1)
    assert result["largest difference"] < 1e-4
    assert len(embedding.masks_of(2, 5, 7)) == 2
    assert np.all([mask.shape == (5, 7) for mask in embedding.masks_of(2, 5, 7)])


def test_whole_images_run_through_both() -> None:
    found = pipeline.run("cpu", "float32", images=2, reference_images=1, points_per_side=4)
    assert found["masks per image"] > 0
    assert all(value > 0 for value in found["images per second"].values())


def test_time_under_several_kernels_counts_once() -> None:
    assert pipeline.covered(iter([(5, 9), (0, 4), (1, 2), (3, 6)])) == 9
    assert pipeline.covered(iter([])) == 0
