"""How much is computed at once: fixed, halved where memory runs out, and no different a result."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError

from stages import batch_size, embed
from stages.batch_size import ahead, groups, over
from stages.params import RunParams
from stages.proposers.sam import generator

RUN = {
    "device": "cpu", "executor": "local", "scheduler": "", "workers": 1, "threads": 1, "prefetch": 0, "weights_dir": "w",
    "train_dir": "t", "report_dir": "r", "max_failures": 0,
}  # fmt: skip
SIZES = ("points_per_batch", "masks_per_batch", "images_per_batch")


def work_with_room_for(most: int, tried: list[int]) -> object:
    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if part.stop - part.start > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    return work


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (4, 4), (9, 4), (5, 1), (3, 64)])
def test_slices_cover_all_in_order(count: int, size: int) -> None:
    tried: list[int] = []
    found = over(count, size, work_with_room_for(64, tried))  # type: ignore[arg-type,var-annotated]
    assert [item for part in found for item in part] == list(range(count))
    assert tried == [size] * (count // size) + [count % size] * (count % size > 0)


def test_half_the_size_where_memory_runs_out_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []
    batch_size._say_halved.cache_clear()
    with caplog.at_level(logging.WARNING):
        found = over(20, 16, work_with_room_for(3, tried))  # type: ignore[arg-type,var-annotated]
    assert [item for part in found for item in part] == list(range(20))
    assert tried[:4] == [16, 8, 4, 2]
    assert set(tried[3:]) == {2}
    assert "batches of 2" in caplog.text


def test_a_call_begins_with_the_full_size_whatever_ran_out_before(caplog: pytest.LogCaptureFixture) -> None:
    first: list[int] = []
    second: list[int] = []
    batch_size._say_halved.cache_clear()
    with caplog.at_level(logging.WARNING):
        over(8, 8, work_with_room_for(2, first))  # type: ignore[arg-type,var-annotated]
        over(8, 8, work_with_room_for(2, second))  # type: ignore[arg-type,var-annotated]
    assert first == second
    assert caplog.text.count("batches of 2") == 1  # said once


def test_one_item_without_room_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        over(8, 4, work_with_room_for(0, []))  # type: ignore[arg-type,var-annotated]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_fixed_unless_a_number_is_given(name: str) -> None:
    """A file of before, where 0 stood for a measured size, stays valid."""
    assert getattr(RunParams.model_validate(RUN), name) is None
    assert getattr(RunParams.model_validate(RUN | {name: None}), name) is None
    assert getattr(RunParams.model_validate(RUN | {name: 0}), name) is None
    assert getattr(RunParams.model_validate(RUN | {name: 7}), name) == 7
    with pytest.raises(ValidationError, match=name):
        RunParams.model_validate(RUN | {name: -1})


def test_the_sizes_of_either_kind_of_device() -> None:
    """They decide the last bits of stored data: whoever changes one changes what machines compute."""
    assert generator.POINTS_PER_BATCH == 64
    assert generator.IMAGES_PER_BATCH == {"cpu": 1, "cuda": 4}
    assert embed.MASKS_PER_BATCH == 64
    assert embed.IMAGES_PER_BATCH == {"cpu": 1, "cuda": 8}


def test_no_library_measures_which_algorithm_is_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.device import resolve_device

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    resolve_device(RunParams.model_validate(RUN))
    assert not torch.backends.cudnn.benchmark


def test_groups_cover_all_in_order() -> None:
    assert list(groups(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(groups([], 3)) == []


def test_the_next_item_is_fetched_before_the_last_is_worked_on() -> None:
    events: list[str] = []

    def source() -> Iterator[int]:
        for number in range(3):
            events.append(f"fetch {number}")
            yield number

    for number in ahead(source()):
        events.append(f"work {number}")
    assert events == ["fetch 0", "fetch 1", "work 0", "fetch 2", "work 1", "work 2"]
