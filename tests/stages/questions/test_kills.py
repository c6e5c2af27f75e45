from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stages.questions.journal import open_journal
from tests.stages.questions.asked import model_at, request_of
from tests.stages.questions.server import Served, serve, text_of

ROOT = Path(__file__).parents[3]
Run = Callable[[Path, list[str], int, str], bool]
"""From folder, texts, point and mode: whether the child was killed."""


@contextmanager
def killer(folder: Path, served: Served) -> Iterator[Run]:
    """The process whose children ask and are killed. ``folder``, ``served``: for a first request, before there is a child."""
    command = [sys.executable, "-m", "tests.stages.questions.killer"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def say(folder: Path, texts: list[str], point: int, mode: str) -> None:
            model = model_at(served.base_url, concurrency=2, mode=mode).model_dump()
            order = {"folder": str(folder), "model": model, "texts": texts, "point": point}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()

        def run(folder: Path, texts: list[str], point: int, mode: str) -> bool:
            say(folder, texts, point, mode)
            status = int(process.stdout.readline())
            assert status in (0, signal.SIGKILL), "the child failed by itself"
            return status == signal.SIGKILL

        say(folder / "first", ["first"], 0, "chat")
        yield run
        process.stdin.close()


def asked(served: Served) -> Counter[str]:
    """How often each text was asked, alone or in a batch."""
    found = Counter(text_of(call.body) for call in served.chats())
    for batch in served.batches.values():
        lines = served.files[batch["input_file_id"]].splitlines()
        found.update(text_of(json.loads(line)["body"]) for line in lines)
    return found


def answered(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Text -> its reply, of those that a journal has one of."""
    with open_journal(folder, write=False) as journal:
        keys = {text: request_of(text).key for text in texts}
        return {text: journal.answer(key) for text, key in keys.items() if key in journal}


def kill_everywhere(tmp_path: Path, mode: str, step: int, concurrency: int) -> int:
    """Kill a run at every step-th point, let it finish, and check what was asked; give the first point that no run reaches."""
    with serve() as served, killer(tmp_path, served) as run:
        for point in range(1, 1000, step):
            texts = [f"{mode} {point} {number}" for number in range(5)]
            folder = tmp_path / str(point)
            killed = run(folder, texts, point, mode)
            kept, before = answered(folder, texts), asked(served)
            assert not run(folder, texts, 0, mode)
            after = asked(served)
            assert {text: after[text] for text in kept} == {text: 1 for text in kept}, "an answer was asked for again"
            twice = sum(after[text] - 1 for text in texts)
            assert twice <= concurrency
            assert all(before[text] + 1 >= after[text] >= 1 for text in texts)
            final = answered(folder, texts)
            assert {text: reply.text for text, reply in final.items()} == {text: f"answer to {text}" for text in texts}
            assert final.items() >= kept.items()
            if not killed:
                return point
    raise AssertionError("there are more points than expected")


# A run of five requests writes and syncs about 34 times.
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_a_run_killed_at_any_write_asks_nothing_again_that_was_answered(tmp_path: Path, step: int) -> None:
    assert kill_everywhere(tmp_path, "chat", step, concurrency=2) >= 30


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_batch_of_a_killed_run_is_picked_up_and_not_sent_again(tmp_path: Path, step: int) -> None:
    assert kill_everywhere(tmp_path, "batch", step, concurrency=0) >= 16


def test_a_run_killed_again_and_again_ends_with_every_answer(tmp_path: Path) -> None:
    texts = [f"question {number}" for number in range(30)]
    draw = random.Random(0)
    with (
        serve(lambda body: (time.sleep(0.002), f"answer to {text_of(body)}")[1]) as served,
        killer(tmp_path, served) as run,
    ):
        kills, kept = 0, {}
        while run(tmp_path / "journal", texts, draw.randint(5, 40), "chat"):
            kills += 1
            now = answered(tmp_path / "journal", texts)
            assert now.items() >= kept.items()
            kept = now
        counts = asked(served)
    assert kills >= 5
    assert sum(counts[text] - 1 for text in texts) <= 2 * kills
    assert answered(tmp_path / "journal", texts).keys() == set(texts)
