"""Controls: who gets whose question, how an answer moves to another image, and what blank inputs are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stages.predictions import Prediction
from stages.train.controls import answered, batch_size_for, blanked, partners
from store import rle


def mask(height: int, width: int, rows: slice, columns: slice) -> str:
    found = np.zeros((height, width), bool)
    found[rows, columns] = True
    return rle.encode(found)


SIZES = [(8, 8), (16, 8), (8, 24)]
BATCH: dict[str, Any] = {
    "id": ["a", "b", "c"],
    "image_index": torch.tensor([0, 1, 2]),
    "texts": [["where is a"], ["where is b"], ["where is c"]],
    "is_sentence": [True, False, True],
    "height_px": [height for height, _ in SIZES],
    "width_px": [width for _, width in SIZES],
    "candidates": torch.tensor([[0, 1, 0], [4, 2, 0], [0, 1, 0]]),  # the last is padding
    "segmentation": [
        [mask(h, w, slice(0, h // 2), slice(None)), mask(h, w, slice(h // 2, h), slice(None))] for h, w in SIZES
    ],
    "features": torch.ones(3, 2, 4),
    "masks": torch.ones(3, 2, 5),
    "bbox": [torch.ones(2, 4)] * 3,
}


class UpperHalf:
    """Names candidate 0 of the image it is shown, and repeats the question."""

    def predict(self, batch: Any, mode: str) -> list[Prediction]:
        return [
            Prediction(name, 0, rows[0], False, (int(numbers[0]),), texts[0])
            for name, rows, numbers, texts in zip(
                batch["id"], batch["segmentation"], batch["candidates"], batch["texts"], strict=True
            )
        ]


def test_own_questions_are_left_alone() -> None:
    found = answered(UpperHalf(), BATCH, "generated", "own")  # type: ignore[arg-type]
    assert [(one.target_id, one.answer) for one in found] == [(name, f"where is {name}") for name in BATCH["id"]]


def test_shuffled_questions_count_for_the_image_that_was_seen() -> None:
    found = answered(UpperHalf(), BATCH, "generated", "shuffled-questions")  # type: ignore[arg-type]
    assert [one.target_id for one in found] == ["a", "b", "c"]
    assert [one.answer for one in found] == ["where is b", "where is c", "where is a"]
    assert [one.segmentation for one in found] == [rows[0] for rows in BATCH["segmentation"]]
    assert [one.chosen for one in found] == [(0,), (4,), (0,)]


def test_shuffled_images_count_for_the_question_that_was_asked() -> None:
    found = answered(UpperHalf(), BATCH, "generated", "shuffled-images")  # type: ignore[arg-type]
    assert [(one.target_id, one.answer) for one in found] == [(name, f"where is {name}") for name in BATCH["id"]]
    # The upper half of another image, stretched, is the upper half of this one.
    assert [one.segmentation for one in found] == [rows[0] for rows in BATCH["segmentation"]]
    assert [one.chosen for one in found] == [(0,), (4,), (0,)]


def test_partners_are_of_other_images_and_each_is_somebodys() -> None:
    images = [3, 3, 5, 5, 5, 7]
    found = partners(images)
    assert sorted(found) == list(range(6))
    assert all(images[one] != images[other] for one, other in enumerate(found))
    with pytest.raises(ValueError, match="found 3 questions about 2 images in a batch"):
        partners([1, 1, 2])


@pytest.mark.parametrize("count", [1, 2, 16, 17, 33, 257, 273])
def test_no_question_is_left_alone(count: int) -> None:
    size = batch_size_for(count, 16)
    assert size >= 16
    assert count % size != 1 or count == 1


def test_blank_inputs_say_nothing_and_masks_can_still_be_named() -> None:
    assert blanked(BATCH, None) is BATCH
    blind = blanked(BATCH, "image")
    assert not any(bool(blind[key].any()) for key in ("features", "masks"))
    assert not any(bool(boxes.any()) for boxes in blind["bbox"])
    assert blind["texts"] == BATCH["texts"]
    assert blind["segmentation"] == BATCH["segmentation"]
    deaf = blanked(BATCH, "question")
    assert deaf["texts"] == [[""]] * 3
    assert bool(deaf["features"].all())
