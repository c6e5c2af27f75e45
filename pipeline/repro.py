"""``make repro``: ``dvc repro``, which says how far it is, and whose lock file for the demo stays out of the working tree.

``dvc.lock`` records digests and times that differ from machine to machine. For a person's own params it belongs next to
``dvc.yaml``, to be committed: it says what a remote holds. For the demo nobody shares a cache, so it would only make every clone
dirty. While ``params.yaml`` is the demo's as committed, this machine's lock is kept in ``.dvc/tmp`` and is in place only while
DVC runs, which refuses a lock file that git ignores.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline import stage_times
from pipeline.next_steps import next_steps
from pipeline.stage_times import Stages

ROOT = Path(__file__).resolve().parent.parent
_INTERRUPTED = 75
_PATIENCE_SECONDS = 5.0


def main(arguments: Sequence[str]) -> int:
    """``dvc repro`` with these stages, or with all; its exit code."""
    folder = ROOT / ".dvc" / "tmp" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "running").open("w") as running:
        try:
            fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("make repro runs here already; wait for it, then run this again", file=sys.stderr)
            return _INTERRUPTED
        with _demo_lock(folder):
            code = _with_progress(arguments)
    if code == 0:
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        print(f"\n{next_steps(params, is_of_the_demo(params), trained=not arguments)}")
    return code


def _with_progress(targets: Sequence[str]) -> int:
    """``dvc repro``; each stage says how far the run is. Returns its exit code."""
    kept = ROOT / ".dvc" / "tmp" / "stage_seconds.json"
    known = stage_times.read(kept, ROOT / "demo" / "stage_seconds.json" if _is_the_demo() else None)
    stages = Stages(_planned(targets), known)
    code = _run(["dvc", "repro", *targets], stages.line)
    if code == 0:
        stages.stage_ended()
        print(stages.summary())
    stage_times.keep(kept, stages.took)
    return code


def _planned(targets: Sequence[str]) -> list[str]:
    """The stages that ``dvc repro`` goes through; none where DVC finds an error, which ``dvc repro`` itself will say."""
    done = subprocess.run(
        ["dvc", "dag", "--dot", *targets],
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return re.findall(r'^"([^"]+)";$', done.stdout, re.MULTILINE) if done.returncode == 0 else []


@contextmanager
def _demo_lock(folder: Path) -> Iterator[None]:
    """Keep the demo's lock next to dvc.yaml while the block runs. Do nothing with other params, or a person's own ``dvc.lock``."""
    lock, kept, in_place = ROOT / "dvc.lock", folder / "dvc.lock", folder / "in_place"

    def put_away() -> None:
        if lock.exists():
            lock.replace(kept)
        in_place.unlink()

    if in_place.exists() and not _git("ls-files", "dvc.lock"):
        put_away()  # an earlier run was killed
    if lock.exists() or not _is_the_demo():
        yield
        return
    in_place.touch()
    if kept.exists():
        kept.replace(lock)
    try:
        yield
    finally:
        put_away()
    print(f"the demo's dvc.lock is kept in {folder.relative_to(ROOT)}: there is nothing to add to git")


def _is_the_demo() -> bool:
    """Whether params.yaml and dvc.yaml are those of the commit, and are the demo's."""
    files = ("params.yaml", "dvc.yaml")
    if _git("ls-files", "--error-unmatch", *files) is None or _git("diff", "--quiet", "HEAD", "--", *files) is None:
        return False
    return is_of_the_demo(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))


def is_of_the_demo(params: Any) -> bool:
    """Whether all data sets of a params file are in the folder that the demo generates."""
    data = params.get("data") if isinstance(params, dict) else None
    if not isinstance(data, dict) or not data or not all(isinstance(entry, dict) for entry in data.values()):
        return False
    roots = [Path(str(entry.get("root"))) for entry in data.values()]
    return all(root.is_relative_to("data/demo") and ".." not in root.parts for root in roots)


def _git(*arguments: str) -> str | None:
    """What git prints; None where it fails, or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _run(command: Sequence[str], said: Callable[[str], str]) -> int:
    """Run a command to its end, whatever signals come: Ctrl-C reaches it by itself, others are passed on.

    Args:
        said: line of its output, without the line's end -> what is printed of it.
    """
    asked: list[float] = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # or lines would wait in a pipe until a stage has ended
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    )

    def pass_on() -> None:
        assert child.stdout is not None
        with child.stdout, contextlib.suppress(BrokenPipeError):  # our own output is closed: close DVC's, too
            for line in child.stdout:
                print(said(line.rstrip("\n")), flush=True)

    lines = threading.Thread(target=pass_on, daemon=True)
    lines.start()

    def interrupted(number: int, frame: Any) -> None:
        asked.append(time.monotonic())

    def passed_on(number: int, frame: Any) -> None:
        _signal(child.pid, number)

    handlers: dict[int, Callable[[int, Any], None]] = {
        signal.SIGINT: interrupted, signal.SIGTERM: passed_on, signal.SIGHUP: passed_on
    }  # fmt: skip
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        while True:
            try:
                code = child.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                if asked and time.monotonic() - asked[0] > _PATIENCE_SECONDS:  # it came to this process alone
                    asked.clear()
                    _signal(child.pid, signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        lines.join(_PATIENCE_SECONDS)  # a process that DVC's command left behind may hold the pipe open for longer
    return code if code >= 0 else 128 - code


def _signal(process: int, number: int) -> None:
    """Send a signal to a process and all that it started: DVC passes none on to the command that it runs."""
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in file.read_text().split():
                _signal(int(child), number)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # before DVC runs, or after it
        sys.exit(130)
