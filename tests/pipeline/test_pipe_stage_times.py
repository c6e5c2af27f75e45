"""How far ``make repro`` is, what is left, and what to type after it."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipeline import stage_times
from pipeline.next_steps import next_steps
from pipeline.stage_times import Stages, clock, remaining

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(stage_times.time, "monotonic", found)
    return found


def test_a_run_says_how_far_it_is_and_what_is_left(ticking: Clock) -> None:
    stages = Stages(["demo", "index", "masks", "embed"], {"demo": 5, "index": 10, "masks": 60, "embed": 30})
    assert stages.line("Running stage 'demo':") == (
        "Running stage 'demo' (stage 1 of 4, 0:00 so far, about 1:45 to go):"
    )
    ticking.now += 10  # twice as long as it took before
    assert stages.line("> python cli.py index") == "> python cli.py index"
    assert stages.line("Stage 'index' didn't change, skipping") == "Stage 'index' didn't change, skipping"
    ticking.now += 3
    assert stages.line("Running stage 'masks':") == (
        "Running stage 'masks' (stage 3 of 4, 0:13 so far, about 3:00 to go):"
    )
    ticking.now += 90
    assert "stage 4 of 4, 1:43 so far, about 0:46 to go" in stages.line("Running stage 'embed':")
    ticking.now += 1
    stages.stage_ended()
    assert stages.took == {"demo": 10, "masks": 90, "embed": 1}
    assert stages.summary() == "4 stages in 1:44; 1 of them had nothing to do"


def test_without_an_earlier_run_no_time_is_guessed(ticking: Clock) -> None:
    stages = Stages(["demo", "index"], {"demo": 5})
    assert stages.line("Running stage 'demo':") == "Running stage 'demo' (stage 1 of 2, 0:00 so far):"
    assert Stages([], {"demo": 5}).line("Running stage 'demo':") == "Running stage 'demo' (stage 1, 0:00 so far):"


def test_a_stage_that_failed_is_not_remembered(ticking: Clock, tmp_path: Path) -> None:
    stages = Stages(["demo", "index"], {})
    stages.line("Running stage 'demo':")
    ticking.now += 4
    stages.line("Running stage 'index':")
    ticking.now += 4
    stage_times.keep(tmp_path / "kept.json", stages.took)
    assert stage_times.read(tmp_path / "kept.json") == {"demo": 4}


def test_the_longest_time_is_kept_and_another_machine_is_scaled(tmp_path: Path) -> None:
    kept, elsewhere = tmp_path / "kept.json", tmp_path / "elsewhere.json"
    elsewhere.write_text('{"demo": 10, "masks": 100, "train": 300}')
    assert stage_times.read(kept, elsewhere) == {"demo": 10, "masks": 100, "train": 300}
    stage_times.keep(kept, {"demo": 20.0, "masks": 200.0})
    stage_times.keep(kept, {"masks": 3.0})  # the rest of a run that was stopped
    assert stage_times.read(kept, elsewhere) == {"demo": 20, "masks": 200, "train": 600}
    assert remaining(["train"], {"demo": 40}, stage_times.read(kept)) is None
    for damaged in ("{", "[1]", '{"demo": "soon"}', '{"demo": null}'):
        kept.write_text(damaged)
        assert stage_times.read(kept) == {}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (725, "12:05"), (4325, "1:12:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_demos_times_are_of_its_stages() -> None:
    found = json.loads((ROOT / "demo/stage_seconds.json").read_text())
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    over = {name: str(stage.get("foreach", "")).strip("${}") for name, stage in stages.items()}
    names = {
        f"{name}@{key}" if section else name for name, section in over.items() for key in params.get(section, [""])
    }
    assert found.keys() == names
    assert all(0 < seconds < 3600 for seconds in found.values())


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("path", ["params.yaml", "params/mine.yaml", "params/reasonseg.yaml"])
def test_every_next_step_can_be_typed(path: str, trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    text = next_steps(yaml.safe_load((ROOT / path).read_text()), path == "params.yaml", trained)
    words = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("  ")]
    words = [line for line in words if line]  # without those that say what it is for
    assert words[0] == ["source", ".venv/bin/activate"]
    group: Any = typer.main.get_command(importlib.import_module("cli").app)
    verbs = [line[2:] for line in words if line[:2] == ["python", "cli.py"] and line[2] != "--help"]
    assert {"browse", "ask"} <= {verb[0] for verb in verbs}
    assert ("train" in {verb[0] for verb in verbs}) is not trained
    for verb, *rest in verbs:
        context = group.commands[verb].make_context(verb, rest)
        image = context.params.get("image", "demo/")
        assert image.startswith("demo/") or (ROOT / image).is_file()
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert all(line[1] in targets for line in words if line[0] == "make")
    monkeypatch.setenv("VIRTUAL_ENV", ".venv")
    assert "activate" not in next_steps({}, True, trained)


def test_the_set_up_is_quiet_and_its_errors_are_not(tmp_path: Path) -> None:
    """With stand-ins for python and uv: what they print of packages is not asked for, what fails is shown."""
    for name in ("Makefile", "requirements.lock", "requirements-uv.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    python, log = tmp_path / "python", tmp_path / "log"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *"-m venv"*) mkdir -p .venv/bin; cp {python} .venv/bin/python; '
        f"printf '#!/bin/sh\\necho \"$*\" >> {log}; echo no network >&2; exit 3\\n' > .venv/bin/uv; "
        "chmod +x .venv/bin/uv;; esac\n"
    )
    python.chmod(0o755)
    make = ["make", "--no-print-directory", f"PYTHON={python}", "setup"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.startswith("no network\n")
    assert "--quiet" in log.read_text()
    assert not (tmp_path / ".venv/installed").exists()
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert re.match(r"set-up: the \d+ packages of requirements.lock ", lines[0])
