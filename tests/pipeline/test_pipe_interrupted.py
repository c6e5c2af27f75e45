"""Stopped anywhere and run again: at most the shard in work is lost, and the content is the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from store.storage import leftovers

ROOT = Path(__file__).resolve().parents[2]


def stopped(
    project: Any, at: int, name: str, *arguments: str, again_after_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line in a child that sends itself a signal before it puts its ``at``-th shard in its place.

    ``again_after_s`` sends it a second time, so much later.
    """
    argv = ["cli.py", "--params", str(project.params), *arguments]
    code = textwrap.dedent(f"""
        import itertools, os, signal, sys, threading
        import store.write.writer as writer
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits it ignored
        real, calls = writer._publish, itertools.count()
        def stopping(*given):
            if next(calls) == {at}:
                if {again_after_s} is not None:
                    threading.Timer({again_after_s}, os.kill, (os.getpid(), signal.{name})).start()
                os.kill(os.getpid(), signal.{name})
            return real(*given)
        writer._publish = stopping
        sys.argv = {argv!r}
        import cli
        sys.exit(cli.main())
    """)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True, timeout=240
    )


def without(project: Any, *columns: str) -> None:
    for place in columns:
        name, split = place.rsplit("/", 1)
        folders = {*project.store.glob(f"tiny/{name}/{split}"), *project.store.glob(f"tiny/{name}/**/{split}")}
        assert folders, place
        for folder in folders:
            shutil.rmtree(folder)


@pytest.mark.parametrize(("name", "code", "words"), [("SIGINT", 130, "Ctrl-C"), ("SIGTERM", 75, "SIGTERM")])
def test_signals_end_with_their_exit_code_and_the_next_run_goes_on(
    finished: Any, name: str, code: int, words: str
) -> None:
    content = finished.content()
    without(finished, "match/sam/targets/train", "match/sam/instances/train")
    done = stopped(finished, 3, name, "extract", "--split", "train", "--stage", "match")
    assert done.returncode == code
    assert f"stopped by {words}: what was committed is kept; run the same command again to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert (
        finished.run("verify", "--deep").code == 0
    )  # a shard that was being written is finished, one being computed is not
    before = finished.times()
    finished.build("extract --split train --stage match")
    assert finished.recomputed(before) == {"match/sam/targets/train#2", "match/sam/instances/train#2"}
    assert finished.content() == content
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_what_a_kill_leaves_in_the_report_is_removed_by_the_next_command(finished: Any) -> None:
    def left() -> list[Path]:
        return list((finished.folder / "report").rglob(".tmp-*"))

    child = os.fork()
    if not child:
        try:
            leftovers.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
            finished.run("index", "--split", "val")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.parent for path in left()] == [finished.folder / "report/metrics/index/tiny"]
    finished.build("index --split val")
    assert left() == []


@pytest.mark.parametrize("between_s", [0.0, 0.02, 0.2])
def test_a_second_ctrl_c_is_as_safe_as_the_first(finished: Any, between_s: float) -> None:
    """Wherever the second one lands: on the way out of the work, in the report, or on a process that has gone."""
    content = finished.content()
    without(finished, "match/sam/targets/train", "match/sam/instances/train")
    begun = time.monotonic()
    done = stopped(finished, 2, "SIGINT", "extract", "--split", "train", "--stage", "match", again_after_s=between_s)
    assert done.returncode in (130, -signal.SIGINT)
    assert time.monotonic() - begun < 60
    finished.build("extract --split train --stage match")
    assert finished.content() == content
    assert finished.run("verify", "--deep", "--complete").code == 0


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 75)])
def test_a_signal_that_falls_into_a_destructor_is_not_lost(name: str, code: int) -> None:
    """Files that the store reads are closed by one, in which Python drops whatever is raised."""
    script = textwrap.dedent(f"""
        import signal, sys, time
        import cli, pipeline.verbs.looking
        signal.signal(signal.SIGINT, signal.default_int_handler)
        class Late:
            def __del__(self):
                signal.raise_signal(signal.{name})
        def settings(*given, **more):
            Late()
            time.sleep(60)
        pipeline.verbs.looking.settings_of = settings
        sys.argv = ["cli.py", "info"]
        sys.exit(cli.main())
    """)
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert time.monotonic() - begun < 50
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("at", [0, 1, 4])
def test_killed_in_match(finished: Any, at: int) -> None:
    content = finished.content()
    without(finished, "match/sam/targets/train", "match/sam/instances/train")
    done = stopped(finished, at, "SIGKILL", "extract", "--split", "train", "--stage", "match")
    assert done.returncode == -signal.SIGKILL
    before = finished.times()
    finished.build("extract --split train --stage match")
    assert len(finished.recomputed(before)) == 6 - at
    assert finished.content() == content
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_killed_in_the_index(tiny: Any, finished_once: Any) -> None:
    done = stopped(tiny, 4, "SIGKILL", "index", "--split", "train")
    assert done.returncode == -signal.SIGKILL
    tiny.build("index")
    ours = tiny.content()
    assert len(ours) == 15
    assert ours == {name: sha for name, sha in finished_once.content().items() if name in ours}


def test_killed_in_normalize(finished: Any) -> None:
    content = finished.content()
    without(finished, "centered/train", "centered/val")
    shutil.rmtree(finished.store / "means")
    done = stopped(finished, 5, "SIGKILL", "normalize")  # after both means and three centred shards
    assert done.returncode == -signal.SIGKILL
    finished.build("normalize")
    assert finished.content() == content
    assert finished.run("verify", "--deep", "--complete").code == 0


@pytest.mark.slow
def test_killed_in_embed_after_masks(tiny: Any, finished_once: Any) -> None:
    """The whole of extract, killed in the second shard of embed."""
    tiny.build("index")
    done = stopped(tiny, 6 + 5 + 2, "SIGKILL", "extract", "--split", "train")
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = tiny.times()
    assert "masks/sam/train#2" in before
    assert "mask_embeddings/sam/demo_alphaclip/train#0" in before
    assert "image_features/demo_clip/train#1" not in before
    tiny.build("extract", "normalize")
    assert not {name for name in before if name in tiny.recomputed(before)}
    assert tiny.content() == finished_once.content()
    assert tiny.run("verify", "--deep", "--complete").code == 0


def test_two_runs_at_the_same_time(finished: Any) -> None:
    content = finished.content()
    without(finished, *(f"match/sam/{name}/{split}" for name in ("targets", "instances") for split in ("train", "val")))
    children = [finished.child("extract", "--stage", "match") for _ in range(2)]
    for child in children:
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        assert "Warning" not in err
    assert finished.content() == content
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_verify_and_repair_next_to_a_running_extract(finished: Any) -> None:
    """What a run has half done is no damage, and repair takes nothing that it commits."""
    content = finished.content()
    without(finished, *(f"match/sam/{name}/{split}" for name in ("targets", "instances") for split in ("train", "val")))
    child = finished.child("extract", "--stage", "match")
    looks = 0
    while child.poll() is None or not looks:
        for options in (("--deep",), ("--repair",)):
            done = finished.run("verify", *options)
            assert (done.code, "damage" in done.out) == (0, False), done.out + done.err
        looks += 1
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert finished.content() == content
    assert finished.run("verify", "--deep", "--complete").code == 0


@pytest.mark.slow
def test_two_whole_runs_at_the_same_time(tiny: Any, finished_once: Any) -> None:
    tiny.build("index")
    children = [tiny.child("extract") for _ in range(2)]
    for child in children:
        _, err = child.communicate(timeout=280)
        assert child.returncode == 0, err
    tiny.build("normalize")
    assert tiny.content() == finished_once.content()
    assert tiny.run("verify", "--deep", "--complete").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("at", range(0, 22, 2))
def test_killed_anywhere_in_extract(finished: Any, at: int) -> None:
    content = finished.content()
    names = ("masks", "sam_features", "mask_embeddings", "instance_embeddings", "image_features", "match")
    without(finished, *(f"{name}/train" for name in names))
    done = stopped(finished, at, "SIGKILL", "extract", "--split", "train")
    assert done.returncode == -signal.SIGKILL
    before = finished.times()
    finished.build("extract --split train")
    assert not {name for name in before if name in finished.recomputed(before)}
    assert finished.content() == content
