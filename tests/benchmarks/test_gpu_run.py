"""How ``make check-gpu`` runs its parts: resumed, failing, too slow, killed, without a GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gpu.part import YES, Goal
from tests.benchmarks.gpu.run import ROOT, digests

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path


def command(where: Path, *names: str, **order: Any) -> list[str]:
    words = {"json": str(where / "found.json"), "folder": str(where), "limit_s": 30, **order}
    return [sys.executable, "-m", "tests.benchmarks.faulty_parts", json.dumps(words), *names]


def run(where: Path, *names: str, **order: Any) -> Done:
    return subprocess.run(command(where, *names, **order), cwd=ROOT, capture_output=True, text=True, check=False)


def records(where: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((where / "found.json").read_text())["parts"]
    return found


def times(where: Path, name: str) -> int:
    """How often a part was measured."""
    path = where / name
    return len(path.read_text()) if path.exists() else 0


def test_what_was_measured_is_not_measured_again(where: Path) -> None:
    done = run(where, "counted")
    assert (done.returncode, times(where, "counted")) == (0, 1), done.stderr
    assert "| counted: a figure | times | 12 | at least 10, aim 20 | yes |" in done.stdout
    assert run(where, "counted").stdout == done.stdout
    assert times(where, "counted") == 1
    run(where, "counted", again=True)
    assert times(where, "counted") == 2


def test_other_code_or_arguments_are_measured_again(where: Path) -> None:
    run(where, "counted")
    document = json.loads((where / "found.json").read_text())
    record = document["parts"]["counted"]
    assert (
        record["sources"]["tests/benchmarks/faulty_parts.py"]
        == digests(["tests/benchmarks/faulty_parts.py"]).popitem()[1]
    )
    assert "tests/benchmarks/gpu/extraction.py" not in record["sources"]
    for number, (key, name, value) in enumerate(
        (("sources", "tests/benchmarks/gpu/part.py", "older"), ("arguments", "value", 1), ("machine", "driver", "1.0")),
        2,
    ):
        record[key][name] = value
        (where / "found.json").write_text(json.dumps(document))
        run(where, "counted")
        assert times(where, "counted") == number
        record[key] = records(where)["counted"][key]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fails", "failed: KeyError: 'no such / tensor'"),
        ("runs out", "out of memory: OutOfMemoryError: CUDA out of memory."),
        ("dies", "died: killed from outside"),
        ("lacks", "skipped: needs no_such_package (pip install no_such_package)"),
        ("large", "skipped: needs 40 GB of the GPU's memory, found 24"),
        ("needs fails", "failed: needs 'fails': failed"),
    ],
)
def test_a_part_that_goes_wrong_is_a_row_and_the_others_go_on(where: Path, name: str, said: str) -> None:
    done = run(where, name, "counted")
    rows = done.stdout.splitlines()
    assert any(row.startswith(f"| {name}: nothing |") and said in row for row in rows), done.stdout
    assert any("| times | 12 |" in row for row in rows)
    assert done.returncode == (0 if said.startswith("skipped") else 1)
    assert (times(where, "counted"), times(where, "needs")) == (1, 0)
    if name == "fails":
        assert "in fails" in records(where)["fails"]["traceback"]


def test_what_failed_is_tried_again(where: Path) -> None:
    assert run(where, "fails once", "counted").returncode == 1
    assert run(where, "fails once", "counted").returncode == 0
    assert (times(where, "tries"), times(where, "counted")) == (2, 1)


def test_a_goal_that_is_missed_is_the_exit_code(where: Path) -> None:
    done = run(where, "missed", "counted")
    assert done.returncode == 1
    assert "| missed: a figure too low | times | 3 | at least 10 | no |" in done.stdout
    run(where, "missed")
    assert times(where, "missed") == 1


def test_a_part_may_not_take_longer_than_the_limit(where: Path) -> None:
    done = run(where, "sleeps", "counted", limit_s=1)
    assert done.returncode == 1
    assert "took too long: no answer after 1 s" in done.stdout
    assert records(where)["counted"]["status"] == "ok"
    assert gone(int((where / "pid").read_text()))


def test_no_part_is_begun_that_would_not_end_within_the_budget(where: Path) -> None:
    done = run(where, "long", "counted", budget_s=50)
    assert (done.returncode, times(where, "long"), times(where, "counted")) == (75, 0, 1)
    assert "long: not yet measured: takes about 100 s, 50 s of --budget are left" in done.stderr
    assert "| long: nothing |  | not yet measured |" in done.stdout
    late = run(where, "sleeps", budget_s=2)
    assert (late.returncode, "sleeps" in records(where)) == (75, False)
    assert "sleeps: not yet measured: --budget ended while it ran" in late.stderr
    assert run(where, "long", "counted").returncode == 0


def test_what_others_need_is_made_first_and_again_when_it_has_gone(where: Path) -> None:
    assert run(where, "takes").returncode == 0
    assert records(where)["takes"]["figures"] == {"there": True, "before": 12.0}
    assert run(where, "takes", "makes").returncode == 0
    assert times(where, "makes") == 1
    (where / "made").rmdir()
    run(where, "makes")
    assert times(where, "makes") == 1  # no part needs it
    run(where, "takes", again=True)
    assert times(where, "makes") == 2


def test_killed_in_the_middle_it_goes_on(where: Path) -> None:
    process = subprocess.Popen(command(where, "counted", "sleeps"), cwd=ROOT, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (where / "pid").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert gone(int((where / "pid").read_text()))
    assert set(records(where)) == {"counted"}
    run(where, "counted", "missed")
    assert (times(where, "counted"), times(where, "missed")) == (1, 1)


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds; nothing may stay on a GPU."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_a_torn_file_of_results_is_an_error(where: Path) -> None:
    (where / "found.json").write_text('{"parts": ')
    done = run(where, "counted")
    assert "found no results of check-gpu; name another file with --json" in done.stderr
    assert times(where, "counted") == 0


def test_goals() -> None:
    goal = Goal(at_least=10, aim=20)
    assert [goal.reached(value) for value in (9.9, 10, float("nan"), None, "12")] == [False, True, False, False, False]
    assert [goal.aimed(value) for value in (19, 20)] == [False, True]
    assert [Goal(at_most=8, aim=4).aimed(value) for value in (4, 5)] == [True, False]
    assert [YES.reached(value) for value in (True, False)] == [True, False]
    assert (str(YES), str(goal), str(Goal(at_most=8))) == ("yes", "at least 10, aim 20", "at most 8")
