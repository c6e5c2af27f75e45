"""How long the stages of ``make repro`` take, and from that, how long the remaining ones will take."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path

_STAGE = re.compile(r"^(Running stage|Stage) '([^']+)'(:$| didn't change| is cached)")


class Stages:
    """The stages of one run of ``dvc repro``, as far as the lines that it printed tell.

    Args:
        planned: names of all the stages that it goes through; empty where they are not known.
        known: stage -> seconds that it took in an earlier run, here or on another machine.

    ``took``: stage -> seconds, of those that ran in this run and came to their end.
    """

    def __init__(self, planned: Collection[str], known: Mapping[str, float]) -> None:
        self.took: dict[str, float] = {}
        self._planned, self._known, self._seen = set(planned), known, set[str]()
        self._running: str | None = None
        self._begun = self._since = time.monotonic()

    def line(self, text: str) -> str:
        """A line that DVC printed; where it says that a stage begins, with how far the run is."""
        found = _STAGE.match(text)
        if found is None:
            return text
        self.stage_ended()
        how, name, _ = found.groups()
        left = self._planned - self._seen
        self._seen.add(name)
        if how == "Stage":  # it has nothing to do
            return text
        self._running, self._since = name, time.monotonic()
        return f"{text.removesuffix(':')} ({', '.join(self._how_far(left))}):"

    def stage_ended(self) -> None:
        """The stage that was running has done what it had to."""
        if self._running is not None:
            self.took[self._running] = time.monotonic() - self._since
            self._running = None

    def summary(self) -> str:
        """What is said after the last stage."""
        idle = len(self._seen) - len(self.took)
        nothing = f"; {idle} of them had nothing to do" if idle else ""
        stages = "1 stage" if len(self._seen) == 1 else f"{len(self._seen)} stages"
        return f"{stages} in {clock(time.monotonic() - self._begun)}{nothing}"

    def _how_far(self, left: Collection[str]) -> list[str]:
        number = f"stage {len(self._seen)}" + f" of {len(self._planned)}" * bool(self._planned)
        seconds = remaining(left, self.took, self._known)
        to_go = [] if seconds is None else [f"about {clock(seconds)} to go"]
        return [number, f"{clock(time.monotonic() - self._begun)} so far", *to_go]


def remaining(left: Collection[str], took: Mapping[str, float], known: Mapping[str, float]) -> float | None:
    """Seconds that stages take, by earlier runs; None if one of them never ran.

    Earlier seconds are scaled by what the finished stages of this run took, compared with those of the earlier one.
    """
    if not left or any(stage not in known for stage in left):
        return None
    return _pace(took, known) * sum(known[stage] for stage in left)


def read(kept: Path, elsewhere: Path | None = None) -> dict[str, float]:
    """Stage -> seconds of earlier runs on this machine; for stages that never ran here, those of another machine, scaled.

    Args:
        kept: the file that :func:`keep` writes; it may be missing.
        elsewhere: the same file of another machine.
    """
    here, there = _seconds(kept), _seconds(elsewhere) if elsewhere else {}
    pace = _pace(here, there)
    return {stage: seconds * pace for stage, seconds in there.items()} | here


def keep(kept: Path, took: Mapping[str, float]) -> None:
    """Remember these seconds; a longer time from before stays, since a stage that goes on after a stop has less to do."""
    before = _seconds(kept)
    found = {stage: round(max(seconds, before.get(stage, 0.0)), 1) for stage, seconds in {**before, **took}.items()}
    temporary = kept.with_suffix(".new")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(kept)


def clock(seconds: float) -> str:
    """``0:42``, ``12:05`` or ``1:12:05``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _pace(took: Mapping[str, float], known: Mapping[str, float]) -> float:
    """How many times as long these stages took as in earlier runs; 1 where none can be compared."""
    both = took.keys() & known.keys()
    before = sum(known[stage] for stage in both)
    return sum(took[stage] for stage in both) / before if before else 1.0


def _seconds(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(stage): float(seconds) for stage, seconds in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):  # a guess of the time is not worth an error
        return {}
