"""How much is computed at once: measured, remembered, and no different a result."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stages import batches
from stages.batches import ahead, fastest, groups, suited


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(batches, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def costs(at_once: float, each: float) -> tuple[list[int], object]:
    sizes: list[int] = []

    def step(size: int) -> None:
        sizes.append(size)
        time.sleep(at_once + each * size)

    return sizes, step


def test_large_batches_where_a_call_costs_much_and_small_ones_where_it_does_not() -> None:
    sizes, step = costs(at_once=0.02, each=0.0)
    assert fastest(step, 16) == 16
    assert max(sizes) == 16
    sizes, step = costs(at_once=0.0, each=0.01)
    assert fastest(step, 64) == 1
    assert max(sizes) == 4, "doubling ends when it does not help"


@pytest.mark.parametrize("slow_from", [0.1 * tenth for tenth in range(12)])
def test_a_machine_that_runs_slower_for_a_while_does_not_decide(
    slow_from: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def step(size: int) -> None:
        slower = 5 if slow_from <= now[0] < slow_from + 1 else 1
        now[0] += slower * (0.002 + 0.0002 * size)

    monkeypatch.setattr(batches.time, "perf_counter", lambda: now[0])
    assert fastest(step, 16) == 16


def test_a_batch_that_memory_has_no_room_for_is_not_chosen() -> None:
    def step(size: int) -> None:
        if size > 4:
            raise torch.OutOfMemoryError
        time.sleep(0.01)

    assert fastest(step, 64) == 4


def test_a_size_is_measured_once_a_machine(cache: Path) -> None:
    sizes, step = costs(0.0, 0.001)
    chosen = suited("a model", "cpu", step, 4)
    calls = len(sizes)
    assert calls > 0
    assert suited("a model", "cpu", step, 4) == chosen
    assert len(sizes) == calls
    suited("another model", "cpu", step, 4)
    assert len(sizes) > calls
    known = json.loads((cache / "batch_sizes.json").read_text())
    assert [key.split(";")[0] for key in known] == ["a model", "another model"]


def test_a_file_that_cannot_be_read_is_named_and_costs_only_a_measurement(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir()
    (cache / "batch_sizes.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert suited("a model", "cpu", lambda size: None, 1) == 1
    assert str(cache) in caplog.text


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
