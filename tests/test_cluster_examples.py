"""The files of docs/cluster.md: their syntax, and that what they run is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/examples/cluster"


def test_the_page_names_every_file() -> None:
    named = set(re.findall(r"docs/examples/cluster/\w+\.\w+", (ROOT / "docs/cluster.md").read_text()))
    assert named == {path.relative_to(ROOT).as_posix() for path in FOLDER.iterdir()}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_shell_scripts_parse(path: Path) -> None:
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_parses() -> None:
    ast.parse((FOLDER / "slurm_dask.py").read_text())


def test_the_kubernetes_job_is_one() -> None:
    job = yaml.safe_load((FOLDER / "kubernetes_job.yaml").read_text())
    spec = job["spec"]
    assert (job["kind"], spec["completionMode"], spec["completions"]) == ("Job", "Indexed", spec["parallelism"])
    (container,) = spec["template"]["spec"]["containers"]
    assert f"$JOB_COMPLETION_INDEX/{spec['completions']}" in container["args"][0]


def stand_ins(folder: Path, exit_codes: str) -> dict[str, str]:
    """A folder first on the path, with programs that write down how they were called; ``python`` exits with the next code."""
    programs = {
        "python": f'echo "$CUDA_VISIBLE_DEVICES $*" >> {folder}/calls; case "$*" in {exit_codes} esac',
        "srun": 'exec "$@"',
        "scontrol": f'echo "scontrol $*" >> {folder}/calls',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}


def test_four_cards_compute_all_parts_and_tell_of_a_failure(tmp_path: Path) -> None:
    environment = stand_ins(tmp_path, "*2/4) exit 75;; *) exit 0;;")
    done = subprocess.run(["bash", str(FOLDER / "four_cards.sh")], cwd=tmp_path, env=environment)
    assert done.returncode == 75
    calls = sorted((tmp_path / "calls").read_text().splitlines())
    assert calls == [f"{part} cli.py --params params.yaml extract --part {part}/4" for part in range(4)]


@pytest.mark.parametrize("code", [0, 2, 75])
def test_a_slurm_array_puts_a_stopped_part_into_the_queue_again(tmp_path: Path, code: int) -> None:
    environment = stand_ins(tmp_path, f"*) exit {code};;")
    environment |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_JOB_ID": "77"}
    done = subprocess.run(["bash", str(FOLDER / "slurm_array.sh")], cwd=tmp_path, env=environment)
    assert done.returncode == code
    first, *more = (tmp_path / "calls").read_text().splitlines()
    assert first.strip() == "cli.py --params params.yaml extract --part 3/8"
    assert more == ["scontrol requeue 77_3"] * (code == 75)


def test_they_name_verbs_and_options_that_are_there() -> None:
    said = subprocess.run(
        [sys.executable, "cli.py", "extract", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for option in ("--part", "--executor", "--scheduler"):
        assert option in said
