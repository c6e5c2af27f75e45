"""Killed before every single step of the writer: nothing acked is lost, nothing else is visible, the next run ends the same."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from factory import write_images
from faults import (
    IMAGES,
    WORKS,
    Step,
    Work,
    content,
    prepare,
    readable,
    steps_of,
    tree,
    unexpected_damage,
    uninterrupted,
    write,
    write_one,
    wrong_content,
)

from store.write.verify import repair, verify


def in_a_child(work: Callable[[Callable[[str], None]], None], journal: Path) -> tuple[int, list[str]]:
    """Run in a forked process that can note lines in a journal; its wait status and the lines."""
    descriptor = os.open(journal, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks next to threads
        child = os.fork()
    if child == 0:
        try:
            work(lambda line: (os.write(descriptor, f"{line}\n".encode()), None)[1])
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(1)
    os.close(descriptor)
    return os.waitpid(child, 0)[1], journal.read_text().splitlines()


def killed_before(number: int, store: Path, work: Work, journal: Path) -> list[str]:
    """Do the work in a child that kills itself before a step; prove that the kill landed. The steps and acks until then."""

    def run(note: Callable[[str], None]) -> None:
        count = 0

        def before(step: Step) -> None:
            nonlocal count
            note(f"step {count} {step}")
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        with steps_of(store, before):
            write(store, work.kind, work.new, lambda shard: note(f"acked {shard}"))

    status, lines = in_a_child(run, journal)
    steps = [line for line in lines if line.startswith("step")]
    assert os.WIFSIGNALED(status), lines
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert steps[-1].startswith(f"step {number} ")
    assert len(steps) == number + 1
    return lines


def sweep(tmp_path: Path, work: Work, stride: int) -> None:
    """Killed after every step that changes a folder, and before every ``stride``-th."""
    base = tmp_path / "base"
    prepare(base, work)
    images, old = tree(base / "d/images/val"), readable(base, work.kind)
    whole = shutil.copytree(base, tmp_path / "whole")
    steps, expected = uninterrupted(whole, work)
    assert len(readable(whole, work.kind)) == 8
    changed = {number + 1 for number, step in enumerate(steps[:-1]) if step.kind in ("rename", "unlink")}
    for number in sorted(changed | set(range(0, len(steps), stride))):
        store, what = shutil.copytree(base, tmp_path / "store"), f"killed before step {number}: {steps[number]}"
        lines = killed_before(number, store, work, tmp_path / "journal")
        acked = {int(line.split()[1]) for line in lines if line.startswith("acked")}
        assert wrong_content(store, work, acked) is None, what
        assert tree(store / "d/images/val") == images, what
        found, done = readable(store, work.kind), lines[:-1]
        if old and not any("rename" in line and line.endswith("column.json") for line in done):
            assert found.keys() == old.keys(), f"{what}: the column is still the old one, and whole"
        else:
            shards = {image // work.new.get("shard_images", 4) for image in found}
            assert len(shards - acked) <= 1, f"{what}: at most the commit of the shard in work is visible"
        report = verify(store, ["d/val"], deep=True)
        assert unexpected_damage(report) == [], what
        again = shutil.copytree(store, tmp_path / "again")
        with steps_of(tmp_path, lambda step: None):
            write(again, work.kind, work.new)
            assert tree(again) == expected, f"{what}, written again"
            repair(report)
            write(store, work.kind, work.new)
        assert tree(store) == expected, f"{what}, repaired and written again"
        shutil.rmtree(store)
        shutil.rmtree(again)


@pytest.mark.parametrize("name", WORKS)
def test_killed_before_a_sample_of_the_steps(tmp_path: Path, name: str) -> None:
    sweep(tmp_path, WORKS[name], 9)


@pytest.mark.parametrize("kind", ["array", "table"])
def test_a_shard_that_is_computed_again_is_there_at_every_moment(tmp_path: Path, kind: str) -> None:
    """As by --retry-failed, from the same inputs: killed before any step, the old shard or the new one can be read."""
    base = tmp_path / "base"
    old, new = {"failed": {1: "x"}}, {"failed": {1: "x", 2: "y"}}
    with steps_of(base, lambda step: None):
        write_images(base, IMAGES)
        write(base, kind, {"points": 1})
    made = {}
    for name, how in (("old", old), ("new", new)):
        made[name] = {image: content(kind, {"points": 1, **how}, image) for image in range(4)}
    with steps_of(base, lambda step: None):
        write_one(base, kind, {"points": 1, **old}, 0, again=True)
    steps: list[Step] = []
    whole = shutil.copytree(base, tmp_path / "whole")
    with steps_of(whole, steps.append):
        write_one(whole, kind, {"points": 1, **new}, 0, again=True)
    seen = set()
    for number in range(len(steps)):
        store = shutil.copytree(base, tmp_path / "store")

        def run(note: Callable[[str], None], store: Path = store, number: int = number) -> None:
            count = iter(range(10**6))

            def before(step: Step) -> None:
                if next(count) == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            with steps_of(store, before):
                write_one(store, kind, {"points": 1, **new}, 0, again=True)

        status, _ = in_a_child(run, tmp_path / "journal")
        assert os.WIFSIGNALED(status), number
        for turn in ("killed", "repaired"):
            found = {image: value for image, value in readable(store, kind).items() if image < 4}
            which = [
                name for name, values in made.items() if all(np.array_equal(found.get(k), values[k]) for k in values)
            ]
            assert which, f"{turn} before step {number}: {steps[number]}"
            seen |= set(which)
            report = verify(store, ["d/val"], deep=True)
            assert unexpected_damage(report) == []
            assert report.missing == 0
            repair(report)
        assert verify(store, ["d/val"], deep=True).problems == []
        shutil.rmtree(store)
    assert seen == {"old", "new"}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_killed_before_every_step(tmp_path: Path, name: str) -> None:
    sweep(tmp_path, WORKS[name], 1)
