"""The kernel is compared with the CPU at its first use on a card; a faulty one is not used, and that is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages import notes as noted
from stages.proposers.sam import cells, first_use, kernels, postprocess
from stages.proposers.sam.postprocess import Frame
from stages.proposers.sam.upsampling import Axis
from tests.stages.pretendcard import pretend_card

FRAME = Frame(32, 64, (37, 64), (0, 0, 70, 40), (40, 70))
CARD = {"device": "a card that is pretended", "driver": "1.0"}


class Kernel:
    """Stands for :func:`kernels.measure`; ``how`` it goes wrong."""

    def __init__(self, how: str = "") -> None:
        self.how, self.asked = how, 0

    def __call__(self, logits: Any, rows: Axis, columns: Axis, thresholds: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked += 1
        if self.how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.how == "compile":
            raise kernels.triton.CompilationError(None, None, "no such instruction")
        counts, boxes = map(torch.from_numpy, cells.measure(logits.values.numpy(), rows, columns, thresholds))
        if self.how == "count":
            counts[0, 0] += 1
        if self.how == "box":
            boxes[2, 3] -= 1
        return counts, boxes


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel()
    monkeypatch.setattr(kernels, "measure", made)
    monkeypatch.setattr(first_use, "identity", lambda device: CARD)
    monkeypatch.setattr(first_use, "_folder", [tmp_path])
    monkeypatch.setattr(noted, "_notes", {})
    first_use.kernel_is_right.cache_clear()
    yield made
    first_use.kernel_is_right.cache_clear()


def measured(times: int = 1) -> None:
    """Scores and boxes on a card are the CPU's."""
    logits = 5 * torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(1))
    want = postprocess.measure(logits, FRAME, 0.0, 1.0)
    with pretend_card():
        for _ in range(times):
            found = postprocess.measure(logits.to("cuda"), FRAME, 0.0, 1.0)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, want, strict=True))


def test_a_right_kernel_is_asked_once_and_then_remembered(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(times=2)
    assert kernel.asked == 1 + 2
    first_use.kernel_is_right.cache_clear()  # as another process
    measured()
    assert kernel.asked == 3 + 1
    (remembered,) = tmp_path.iterdir()
    assert json.loads(remembered.read_bytes().partition(b"\n")[2])["key"] == CARD
    first_use.kernel_is_right.cache_clear()
    monkeypatch.setattr(first_use, "identity", lambda device: CARD | {"driver": "2.0"})
    measured()
    assert kernel.asked == 4 + 2
    assert not noted.notes()


@pytest.mark.parametrize(("how", "said"), [("compile", "no such instruction"), ("count", "counts"), ("box", "boxes")])
def test_a_faulty_kernel_is_not_used(
    how: str, said: str, kernel: Kernel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernel.how = how
    with caplog.at_level(logging.WARNING):
        measured(times=3)
    assert kernel.asked == 1
    (record,) = caplog.records
    assert said in record.getMessage()
    assert noted.notes() == [record.getMessage()]
    assert not list(tmp_path.iterdir())  # another process asks again


def test_a_card_without_room_is_no_fault_of_the_kernel(kernel: Kernel) -> None:
    """Whoever computes takes fewer at once, and asks again."""
    kernel.how = "memory"
    with pretend_card(), pytest.raises(torch.OutOfMemoryError):
        first_use.kernel_is_right(torch.device("cuda:0"))
    kernel.how = ""
    measured()
    assert not noted.notes()


def test_a_cache_that_cannot_be_written_costs_a_question(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_use, "_folder", [Path("/dev/null/cache")])
    measured()
    assert not noted.notes()


def test_no_pixel_of_the_small_input_depends_on_rounding() -> None:
    rows, columns = FRAME.rows, FRAME.columns

    def dense(part: Axis) -> np.ndarray:  # type: ignore[type-arg]
        matrix = np.zeros((len(part.base), 32))
        for tap in range(part.weights.shape[1]):
            matrix[np.arange(len(part.base)), part.base + tap] += part.weights[:, tap]
        return matrix

    values = dense(rows) @ first_use.small_input().double().numpy() @ dense(columns).T
    assert min(np.abs(values - threshold).min() for threshold in first_use.THRESHOLDS) > 1e-3
    assert (values > 0).any(axis=(1, 2)).tolist() == [True, False, True]
