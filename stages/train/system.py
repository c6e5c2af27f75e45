"""The interface of a system: ELISA, LLM-Seg and LISA differ only in how they implement these functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from torch import Tensor, nn

from stages.dense import dense_columns
from stages.fields import Dense
from stages.predictions import Prediction
from stages.train.language.llava import FeatureLlava
from stages.train.params import TrainParams
from store import rle
from store.split import Split
from store.stream.candidates import Candidates

Batch = Mapping[str, Any]
"""A stream's batch of targets, arrays as tensors (docs/reading.md)."""
Mode = Literal["generated", "teacher_forced"]
"""Where the answer comes from: the system, or the input, as in the released validations of LISA and LLM-Seg."""
ALWAYS = {
    "id": "targets.target_id",
    "texts": "targets.texts",
    "height_px": "images.height_px",
    "width_px": "images.width_px",
}
"""Keys of every batch -> what is read for them."""


class System(Protocol):
    """A LLaVA over stored features with what a system adds to it."""

    params: TrainParams
    """What it was built with."""
    tokens: int
    """Patch features per image."""
    tokenizer: Any
    """The language model's tokenizer, without the tokens that the system adds."""

    @property
    def model(self) -> FeatureLlava:
        """The model, with every parameter, trained or not."""

    @classmethod
    def build(cls, params: TrainParams, split: Split, device: str, weights: Callable[[str], Path]) -> Self:
        """Load the LLaVA and create the new modules in the sizes of the split's columns.

        ``weights``: name of a checkpoint (stages/weights.py) -> its file, checked.
        """

    @staticmethod
    def columns(params: TrainParams, training: bool) -> dict[str, str]:
        """Keys of a batch -> columns or fields of tables, without :data:`ALWAYS`."""

    @staticmethod
    def candidates(params: TrainParams, training: bool) -> Candidates | None:
        """Which masks a sample offers."""

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """What is trained, each with its learning rate."""

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Called once before training: ``batches()`` is a pass over the training targets, the same one on every rank."""

    def inputs(self, batch: Batch, epoch: int) -> dict[str, Any]:
        """The input of :meth:`loss`; it depends only on sample and epoch, not on earlier batches."""

    def loss(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss to minimise, 0-d."""

    def predict(self, batch: Batch, mode: Mode = "generated") -> list[Prediction]:
        """Answers to the first text of each target; ValueError for a mode that the system lacks."""


def dense_names(key: str, column: str, form: Dense) -> dict[str, str]:
    """Keys of a batch -> columns that hold dense features (:mod:`stages.dense`), for :func:`dense` to put together."""
    return dict(zip((key, f"{key}_scale"), dense_columns(column, form), strict=False))


def dense(batch: Batch, key: str, axis: int) -> Tensor:
    """The float16 features [B, ...] of a batch, in whatever form they were read.

    ``axis``: the axis of a token's numbers, counted from the end.
    """
    values: Tensor = batch[key]
    scale: Tensor | None = batch.get(f"{key}_scale")
    return values if scale is None else values.to(scale.dtype) * scale.unsqueeze(axis)


def rng_of(params: TrainParams, epoch: int, batch: Batch, number: int) -> np.random.Generator:
    """The random generator of one question in one epoch, so that a resumed run draws the same."""
    place = [int(batch["image_index"][number]), int(batch["target"][number])]
    if "sample" in batch:  # only in a mixture, which may draw a question several times
        place += [int(batch["sample"][number]), int(batch["source"][number]) if "source" in batch else 0]
    return np.random.default_rng((params.seed, epoch, *place))


def draws_of_sample(params: TrainParams, epoch: int, batch: Batch, number: int) -> tuple[float, float] | None:
    """Two numbers from 0 to 1 that all questions of a sample of a mixture share; None without a mixture."""
    if "sample" not in batch:
        return None
    one, other = np.random.default_rng((params.seed, epoch, int(batch["sample"][number]))).random(2)
    return float(one), float(other)


def text_of(batch: Batch, number: int, rng: np.random.Generator) -> str:
    """The text that a question of a batch asks: the one that the mixture drew, or one drawn from ``rng``."""
    texts = batch["texts"][number]
    return str(texts[int(batch["text"][number] * len(texts))] if "text" in batch else rng.choice(texts))


def every_text(batch: Batch, size: int) -> Iterator[tuple[Batch, list[int]]]:
    """A batch as batches of at most ``size`` samples, each asking one text, and the index of each text among its target's."""
    asked = [(row, number) for row, texts in enumerate(batch["texts"]) for number in range(max(1, len(texts)))]
    for first in range(0, len(asked), size):
        part = asked[first : first + size]
        rows = [row for row, _ in part]
        chosen = {name: _rows_of(values, rows) for name, values in batch.items()}
        yield {**chosen, "texts": [batch["texts"][row][n : n + 1] for row, n in part]}, [number for _, number in part]


def _rows_of(values: Any, rows: list[int]) -> Any:
    return values[rows] if isinstance(values, Tensor | np.ndarray) else [values[row] for row in rows]


def sizes_of(batch: Batch) -> list[tuple[int, int]]:
    """Height and width, px, of each sample's image."""
    return [(int(height), int(width)) for height, width in zip(batch["height_px"], batch["width_px"], strict=True)]


def union_of(batch: Batch, number: int, chosen: Sequence[int]) -> str | None:
    """COCO RLE counts of the union of a sample's candidates ``chosen`` (key ``segmentation``); None if nothing is chosen."""
    if not chosen:
        return None
    size = int(batch["height_px"][number]), int(batch["width_px"][number])
    return rle.union([batch["segmentation"][number][k] for k in chosen], *size)
