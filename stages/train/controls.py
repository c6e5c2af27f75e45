"""Controls for whether a system uses picture and question: questions about other pictures, and training without either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
import torch

from stages.evaluate.cases import POSITIVE_IOU
from stages.predictions import Prediction
from stages.train.system import Batch, Mode, System, sizes_of
from store import rle
from store.overlap import against_instances

Given = Literal["own", "shuffled-images", "shuffled-questions"]
"""What a trained system is given: a question and its image, or one of the two from another sample."""
SHUFFLED: tuple[Given, ...] = ("shuffled-images", "shuffled-questions")
Without = Literal["image", "question"]
_OF_IMAGE = ("features", "masks", "bbox", "sam")  # int8 zeros are zero features, whatever the scale
_OF_QUESTION = ("texts", "is_sentence", "kind")


def blanked(batch: Batch, without: Without | None) -> Batch:
    """A batch in which everything about the image (or the question) is zero (or empty); masks can still be named."""
    if without is None:
        return batch
    if without == "question":
        return {**batch, "texts": [[""] * len(texts) for texts in batch["texts"]]}
    return {**batch, **{key: _zeros(batch[key]) for key in _OF_IMAGE if key in batch}}


def answered(system: System, batch: Batch, mode: Mode, given: Given) -> list[Prediction]:
    """A system's answers to a batch, or to the batch with its questions or images shuffled.

    With ``shuffled-questions`` the answer counts for the image's own question; with ``shuffled-images`` for the question
    that was asked: its mask is stretched to that question's image, and the numbers of the proposals it names refer to that
    image.

    Raises:
        ValueError: the batch has too few images to give every question another one.
    """
    if given == "own":
        return system.predict(batch, mode)
    others = partners(batch["image_index"])
    asked = {key: [batch[key][other] for other in others] for key in _OF_QUESTION if key in batch}
    found = system.predict({**batch, **asked}, mode)
    if given == "shuffled-questions":
        return found
    moved = [_moved(one, batch, number, other) for number, (one, other) in enumerate(zip(found, others, strict=True))]
    return [moved[others.index(number)] for number in range(len(moved))]


def partners(images: Sequence[int]) -> list[int]:
    """For each sample a partner from another image, each sample being the partner of one other: a rotation."""
    count = len(images)
    for shift in range(1, count):
        if all(int(images[number]) != int(images[(number + shift) % count]) for number in range(count)):
            return [(number + shift) % count for number in range(count)]
    raise ValueError(
        f"found {count} questions about {len({int(image) for image in images})} images in a batch, expected several images, "
        "none with more than half of the questions"
    )


def batch_size_for(count: int, wanted: int) -> int:
    """A size of batches, ``wanted`` or somewhat more, that leaves no question alone in the last one."""
    return next((size for size in range(wanted, wanted + count) if count % size != 1), wanted)


def _moved(one: Prediction, batch: Batch, seen: int, asked: int) -> Prediction:
    """An answer about the image of sample ``seen``, converted to one about the image of sample ``asked``."""
    sizes = sizes_of(batch)

    def stretch(counts: str) -> str:
        height, width = sizes[asked]
        mask = rle.decode(counts, *sizes[seen]).astype(np.uint8)
        return rle.encode(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0)

    chosen = None
    if one.chosen is not None:
        masks = batch["segmentation"][seen]
        numbers = [int(number) for number in batch["candidates"][seen][: len(masks)]]  # what follows them is padding
        named = [stretch(masks[numbers.index(number)]) for number in one.chosen]
        there = batch["segmentation"][asked]
        overlap, _ = against_instances(there, named)
        chosen = tuple(int(batch["candidates"][asked][k]) for k in np.flatnonzero((overlap >= POSITIVE_IOU).any(1)))
    segmentation = None if one.segmentation is None else stretch(one.segmentation)
    return replace(one, target_id=batch["id"][asked], segmentation=segmentation, chosen=chosen)


def _zeros(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else [torch.zeros(len(rows), 4) for rows in value]
