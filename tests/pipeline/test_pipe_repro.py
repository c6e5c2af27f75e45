"""``make repro`` on the demo as committed leaves git nothing to say; other params get a lock file of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.repro import is_of_the_demo

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "true",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
DVC_YAML = """
stages:
  demo:
    cmd: {command}
    params: [data, colour]
    outs:
      - data/out:
          cache: false
          persist: true
"""
COMMAND = "mkdir -p data && date +%s%N > data/out"


def run(folder: Path, *command: str, code: int | None = 0) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=False, capture_output=True, text=True)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def repro(folder: Path, code: int | None = 0) -> str:
    return run(folder, sys.executable, "-m", "pipeline.repro", "demo", code=code)


def status(folder: Path) -> str:
    return run(folder, "git", "status", "--porcelain")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this project's DVC and git settings, and a pipeline of one quick stage."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "pipeline").mkdir()
    modules = (f"pipeline/{name}.py" for name in ("__init__", "repro", "stage_times", "next_steps"))
    for name in (*modules, ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    data = yaml.safe_load((ROOT / "params.yaml").read_text())["data"]  # the demo's, whatever borrows its pictures
    (folder / "params.yaml").write_text(yaml.safe_dump({"data": data}) + "colour: red\n")
    (folder / "dvc.yaml").write_text(DVC_YAML.format(command=COMMAND))
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    commit(folder)
    return folder


def command_line(pid: int) -> bytes:
    """Of a process; empty once it has ended, also while this is read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def commit(folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "as it is")


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    run(tmp_path, "git", "clone", "--quiet", str(origin), "clone")
    return tmp_path / "clone"


@pytest.fixture(scope="module")
def made_once(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the pipeline ran. Read only: take ``made`` to change it."""
    folder = tmp_path_factory.mktemp("made") / "clone"
    run(origin, "git", "clone", "--quiet", str(origin), str(folder))
    repro(folder)
    return folder


@pytest.fixture
def made(made_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_once, tmp_path / "made", symlinks=True))


@pytest.mark.parametrize(
    ("data", "is_demo"),
    [
        ({"demo": {"root": "data/demo"}, "more": {"root": "data/demo/more"}}, True),
        ({"demo": {"root": "data/demo"}, "real": {"root": "data/reasonseg"}}, False),
        ({"demo": {"root": "data/demo/../reasonseg"}}, False),
        ({"demo": {"root": "data/demonstration"}}, False),
        ({}, False),
        ([], False),
    ],
)
def test_data_sets_below_the_demos_folder_are_the_demo(data: object, is_demo: bool) -> None:
    assert is_of_the_demo({"data": data}) is is_demo


def test_the_repository_has_no_lock_of_the_demo() -> None:
    assert not (ROOT / "dvc.lock").exists()
    make = (ROOT / "Makefile").read_text()
    assert make.count("python -m pipeline.repro") == 2
    assert "dvc repro" not in make
    demo = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["demo"]
    assert demo["outs"] == [{"data/demo": {"cache": False, "persist": True}}]  # or DVC deletes it before the stage runs


@pytest.mark.parametrize("kind", ["clone", "worktree"])
def test_a_clone_stays_clean_and_a_second_run_does_nothing(
    origin: Path, clone: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "worktree":
        run(clone, "git", "worktree", "add", "--quiet", str(tmp_path / "tree"))
        clone = tmp_path / "tree"
    out = repro(clone)
    assert re.search(
        r"^Running stage 'demo' \(stage 1 of 1, \d:\d\d so far\):\n> mkdir", out, re.MULTILINE
    )  # it never ran
    assert re.search(r"^1 stage in \d:\d\d$", out, re.MULTILINE)
    assert "\nNext:\n" in out
    assert status(clone) == ""
    made = (clone / "data/out").read_text()
    out = repro(clone)
    assert "Running stage" not in out
    assert "up to date" in out
    assert re.search(r"^1 stage in \d:\d\d; 1 of them had nothing to do$", out, re.MULTILINE)
    assert status(clone) == ""

    # dvc repro itself goes on working, and its lock is then a person's: it stays.
    run(clone, "dvc", "repro", "--quiet")
    again = (clone / "data/out").read_text()
    assert again != made
    assert "?? dvc.lock" in status(clone)
    assert "Running stage" not in repro(clone)
    assert (clone / "dvc.lock").exists()


def test_own_params_have_a_lock_to_be_committed(made: Path) -> None:
    (made / "params.yaml").write_text("data: {mine: {root: data/mine}}\ncolour: blue\n")
    repro(made)
    assert status(made) == " M params.yaml\n?? dvc.lock\n"
    commit(made)
    assert "Running stage" not in repro(made)
    assert status(made) == ""
    (made / "params.yaml").write_text("data: {mine: {root: data/mine}}\ncolour: green\n")
    repro(made)
    assert status(made) == " M dvc.lock\n M params.yaml\n"
    # Not only while it is uncommitted: the lock of own params is never put away.
    run(made, "git", "rm", "--quiet", "--cached", "dvc.lock")
    (made / "dvc.lock").unlink()
    commit(made)
    repro(made)
    assert status(made) == "?? dvc.lock\n"


@pytest.mark.parametrize(
    ("end", "to"),
    [
        ("fails", ""),
        *((end, "group") for end in ("SIGINT", "SIGTERM", "SIGKILL")),
        ("SIGINT", "one"),
        ("SIGTERM", "one"),
    ],
)
def test_the_lock_is_put_away_however_it_ends(made: Path, end: str, to: str) -> None:
    kept = made / ".dvc/tmp/demo/dvc.lock"
    before = kept.read_text()
    command = "exit 3" if end == "fails" else "echo $$ > data/begun && exec sleep 100"
    (made / "dvc.yaml").write_text(DVC_YAML.format(command=command))
    commit(made)
    took = made / ".dvc/tmp/stage_seconds.json"
    took.write_text('{"demo": 65}')
    if end == "fails":
        out = repro(made, code=None)
        assert re.search(
            r"^Running stage 'demo' \(stage 1 of 1, \d:\d\d so far, about 1:05 to go\):$", out, re.MULTILINE
        )
        assert "failed to reproduce 'demo'" in out
        assert "Next:" not in out
        assert took.read_text() == '{\n "demo": 65.0\n}\n'
    else:
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.repro", "demo"], cwd=made, env=ENVIRONMENT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background ignores it
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 100
        while not ((made / "data/begun").exists() and (made / "data/begun").read_text()):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.05)
        assert (made / "dvc.lock").exists()
        assert "runs here already" in repro(made, code=75)
        assert (made / "dvc.lock").exists()
        (os.killpg if to == "group" else os.kill)(child.pid, signal.Signals[end])
        assert child.wait(60) != 0
        command_pid = int((made / "data/begun").read_text())
        deadline = time.monotonic() + 10
        while b"sleep" in command_line(command_pid):
            assert time.monotonic() < deadline, "the command goes on"
            time.sleep(0.05)
    if end != "SIGKILL":
        assert status(made) == ""
        assert kept.read_text() == before
    (made / ".dvc/tmp/rwlock").unlink(missing_ok=True)  # as DVC says, where nobody reaped its killed process
    (made / "dvc.yaml").write_text(DVC_YAML.format(command=COMMAND))
    commit(made)
    repro(made)
    assert status(made) == ""


def test_without_git_or_a_clone_it_is_plain_dvc(clone: Path) -> None:
    shutil.rmtree(clone / ".git")
    run(clone, "dvc", "config", "core.no_scm", "true")
    repro(clone)
    assert (clone / "dvc.lock").exists()
    assert "Running stage" not in repro(clone)
