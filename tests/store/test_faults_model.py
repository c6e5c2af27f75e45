"""Random histories of a store against a model in memory: written, killed, changed, damaged, verified, repaired, read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import write_images
from faults import IMAGES, PLACES, Step, content, meta_of, readable, steps_of, unexpected_damage, write_one
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from store.format.column import load_column
from store.format.layout import column_dir
from store.format.shard import read_commit, record_text
from store.storage.listing import is_folder
from store.storage.objects import read_object
from store.write.verify import repair, verify
from store.write.writer import begin_column, is_begun

KINDS = st.sampled_from(list(PLACES))
SHARDS = range(2)
Made = tuple[int, int]
"""What a shard was made from: parameter, and the version of its images or (which decides its bytes) the upstream's parameter."""


class Killed(BaseException):
    """Like SIGKILL: no step is made any more, also none of those that would clean up."""


def killed_at(number: int | None):  # type: ignore[no-untyped-def]
    count = -1

    def before(step: Step) -> None:
        nonlocal count
        count += 1
        if number is not None and count >= number:
            raise Killed

    return before


class Histories(RuleBasedStateMachine):
    """``wanted``: parameter that the column was last begun with; ``done``: what each committed shard was made from."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.store = self.root / "store"
        self.versions = [0, 0]
        self.wanted: dict[str, int | None] = dict.fromkeys(PLACES)
        self.done: dict[tuple[str, int], Made] = {}
        self.swept = True

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    @initialize()
    def start(self) -> None:
        self.index()
        for kind in PLACES:
            self.begin(kind, 0, None)
        self.write("array", 0, None)

    def index(self) -> None:
        with self.until(None):
            failed = {4 * shard: f"version {version}" for shard, version in enumerate(self.versions)}
            write_images(self.store, IMAGES, failed=failed)

    @rule(shard=st.sampled_from(SHARDS))
    def change_images(self, shard: int) -> None:
        self.versions[shard] += 1
        self.index()

    @rule(kind=KINDS, points=st.integers(0, 1), kill=st.none() | st.integers(0, 40))
    def begin(self, kind: str, points: int, kill: int | None) -> None:
        folder, meta = column_dir(self.store, PLACES[kind]), meta_of(kind, {"points": points})
        if not self.was_killed(kill, lambda: is_begun(folder, meta) or begin_column(folder, meta)):
            self.wanted[kind] = points
            return
        found = load_column(folder)
        now = None if found is None else found.identity["points"]
        assert now in (points, self.wanted[kind])
        self.wanted[kind] = now

    def was_killed(self, kill: int | None, work: Callable[[], object]) -> bool:
        """Work until a step; False if it got to its end before."""
        try:
            with self.until(kill):
                work()
        except Killed:
            self.swept = False
            return True
        return False

    def until(self, number: int | None) -> AbstractContextManager[None]:
        """Work that is killed before a step."""
        return steps_of(self.root, killed_at(number))

    def change(self, path: Path, change: Callable[[bytearray], None]) -> None:
        """Damage a file."""
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)

    def made_from(self, kind: str, shard: int) -> Made | None:
        """What a shard would be made from now; None: what it reads is not there."""
        points = self.wanted[kind]
        if points is None or (kind == "downstream" and not self.is_current("array", shard)):
            return None
        return (points, self.done["array", shard][0] if kind == "downstream" else self.versions[shard])

    def is_current(self, kind: str, shard: int) -> bool:
        return (kind, shard) in self.done and self.done[kind, shard] == self.made_from(kind, shard)

    def is_readable(self, kind: str, shard: int) -> bool:
        """Whether a shard is of its column's parameters, and fits whatever it was made from that is still there."""
        made, array = self.done.get((kind, shard)), self.done.get(("array", shard))
        if made is None or made[0] != self.wanted[kind]:
            return False
        if kind != "downstream":
            return made[1] == self.versions[shard]
        return array is None or array == (made[1], self.versions[shard])

    @rule(kind=KINDS, shard=st.sampled_from(SHARDS), kill=st.none() | st.integers(0, 50))
    def write(self, kind: str, shard: int, kill: int | None) -> None:
        made = self.made_from(kind, shard)
        if made is None:
            return
        if self.was_killed(kill, lambda: write_one(self.store, kind, {"points": made[0]}, shard)):
            self.adopt(kind, shard, made)
        else:
            self.done[kind, shard] = made

    def adopt(self, kind: str, shard: int, made: Made) -> None:
        """After a kill the old commit is there, the new one, or none."""
        commit = read_commit(column_dir(self.store, PLACES[kind]), shard)
        if commit is None:
            self.done.pop((kind, shard), None)
        elif commit.fingerprint == meta_of(kind, {"points": made[0]}).fingerprint and self.upstream_is_now(kind, shard):
            self.done[kind, shard] = made
        else:
            assert (kind, shard) in self.done

    def upstream_is_now(self, kind: str, shard: int) -> bool:
        commit = read_commit(column_dir(self.store, PLACES[kind]), shard)
        ((name, digest),) = commit.upstream.items() if commit else [("", "")]
        upstream = read_commit(column_dir(self.store, f"d/{name}/val"), shard)
        return upstream is not None and upstream.content == digest

    @precondition(lambda self: self.done)
    @rule(pick=st.randoms(use_true_random=False), record=st.booleans())
    def damage_and_repair(self, pick, record: bool) -> None:  # type: ignore[no-untyped-def]
        """One byte of a shard, or of its record, is flipped: verify says which shard, and repair costs that one alone."""
        kind, shard = pick.choice(sorted(self.done))
        folder = column_dir(self.store, PLACES[kind])
        commit = read_commit(folder, shard)
        assert commit is not None
        if self.wanted[kind] is None:
            return
        at, length = 0, commit.size
        if record:
            text = record_text(commit)
            at, length = read_object(folder / commit.file).rindex(text), len(text)
        place, bit = at + pick.randrange(length), 1 << pick.randrange(8)
        self.change(folder / commit.file, lambda data: data.__setitem__(place, data[place] ^ bit))
        report = verify(self.store, ["d/val"], deep=True)
        assert [(found.place, found.shard) for found in report.problems if found.shard is not None].count(
            (PLACES[kind], shard)
        ) == 1
        repair(report)
        del self.done[kind, shard]
        self.after_repair()

    @rule()
    def verify_and_repair(self) -> None:
        report = verify(self.store, ["d/val"], deep=True)
        assert unexpected_damage(report) == []
        assert self.swept <= (report.problems == [])
        repair(report)
        self.after_repair()

    def after_repair(self) -> None:
        """Nothing is left but a record that the next run writes."""
        left = verify(self.store, ["d/val"], deep=True).problems
        assert [str(found) for found in left if ".json is missing" not in str(found)] == []
        self.swept = not left

    @invariant()
    def what_fits_together_is_readable_and_nothing_else(self) -> None:
        for kind in PLACES:
            found = readable(self.store, kind) if is_folder(self.store / "d/images/val") else {}
            fits = [shard for shard in SHARDS if self.is_readable(kind, shard)]
            assert {shard for shard in SHARDS if self.is_current(kind, shard)} <= {*fits}
            assert sorted(found) == [image for shard in fits for image in range(4 * shard, 4 * shard + 4)]
            for image, value in found.items():
                want = content(kind, {"points": self.done[kind, image // 4][0]}, image)
                np.testing.assert_array_equal(value, want)


HOW: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.generate, Phase.shrink),
    "database": None,
}


def test_histories() -> None:
    run_state_machine_as_test(
        Histories, settings=settings(max_examples=30, stateful_step_count=25, derandomize=True, **HOW)
    )


@pytest.mark.slow
def test_many_long_histories() -> None:
    run_state_machine_as_test(Histories, settings=settings(max_examples=300, stateful_step_count=60, **HOW))
