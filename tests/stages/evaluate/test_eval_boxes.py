"""Answers that are boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from stages.evaluate import PredictionError, read_external
from stages.evaluate.boxes import filled_box
from stages.evaluate.cases import Question
from store import Split, rle

QUESTION = Question("a", 0, 40, 60, 0, {"target_id": "a/0", "instances": [0]})


def test_of_whole_pixels_it_is_as_pycocotools_fills_it() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = int(rng.integers(0, 60)), int(rng.integers(0, 40))
        box = [x, y, int(rng.integers(1, 61 - x)), int(rng.integers(1, 41 - y))]
        (want,) = coco.frPyObjects(np.array([box], float), 40, 60)
        counts = filled_box("here", box, QUESTION)
        assert counts is not None
        np.testing.assert_array_equal(rle.decode(counts, 40, 60), rle.decode(want["counts"].decode(), 40, 60))


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ([10.4, 5.6, 2, 3], slice(6, 9), slice(10, 12)),  # pixels whose centres lie in it
        ([-5, -5, 10, 10], slice(0, 5), slice(0, 5)),  # what reaches beyond is cut off
        ([50, 30, 1e9, 1e9], slice(30, 40), slice(50, 60)),
    ],
)
def test_pixels_by_their_centres(box: list[float], rows: slice, columns: slice) -> None:
    want = np.zeros((40, 60), bool)
    want[rows, columns] = True
    counts = filled_box("here", box, QUESTION)
    assert counts is not None
    np.testing.assert_array_equal(rle.decode(counts, 40, 60), want)


@pytest.mark.parametrize("box", [None, [3, 3, 0, 5], [3.6, 3.6, 0.2, 0.2]])
def test_nothing_in_it(box: Any) -> None:
    assert filled_box("here", box, QUESTION) is None


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([1, 2, 3], r"here: bbox: found \[1, 2, 3\], expected \[x, y, width, height\]"),
        ("1 2 3 4", "expected"),
        ([1, 2, 3, "4"], "expected"),
        ([1, 2, 3, True], "expected"),
        ([1, 2, float("nan"), 4], "expected"),
        ([1, 2, -3, 4], "with a negative size"),
        ([60, 2, 3, 4], "lies outside the image, expected a box in 60 x 40 px of 'a'"),
        ([1, -9, 3, 4], "lies outside the image"),
    ],
)
def test_what_is_no_box(box: Any, why: str) -> None:
    with pytest.raises(PredictionError, match=why):
        filled_box("here", box, QUESTION)


def test_external_boxes_are_known_as_such(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    mask = {"size": [4, 6], "counts": rle.encode(np.ones((4, 6), bool))}
    path.write_text(
        json.dumps([{"target_id": "image0/0", "bbox": [0, 0, 6, 4]}, {"target_id": "image1/0", "segmentation": mask}])
    )
    found = read_external(path, split)
    assert [one.is_box for one in found] == [True, False]
    assert found[0].segmentation == found[1].segmentation
    path.write_text(json.dumps([{"target_id": "image0/0", "bbox": None, "segmentation": None}]))
    with pytest.raises(
        PredictionError, match=r"boxes.json\[0\]: the keys 'segmentation' and 'bbox'; expected COCO RLE"
    ):
        read_external(path, split)
