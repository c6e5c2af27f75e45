"""The data part under DVC, in a clone of its own: killed, resumed, a no-op, pushed, pulled and verified."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from code_copy import copy_code

pytestmark = pytest.mark.timeout(900)  # one build by some twenty processes

ROOT = Path(__file__).resolve().parents[2]
CODE = ("cli.py", "dvc.yaml", "weights.lock", ".dvcignore", ".gitignore", "pipeline", "demo", "stages", "store")
SETS = {"tiny": ("train", "val"), "other": ("val",), "words": ("test",)}  # words borrows an image of each split of tiny
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "true",
    "OMP_NUM_THREADS": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}
# Evaluates the pipeline under many versions of params.yaml in one process: DVC needs seconds to start.
STATUS = """
import json, pathlib, sys, yaml
from dvc.repo import Repo
path = pathlib.Path("params.yaml")
kept = path.read_text()
found = {}
for change in json.loads(sys.argv[1]):
    values = yaml.safe_load(kept)
    name, value = change.split("=")
    *sections, key = name.split(".")
    place = values
    for section in sections:
        place = place[section]
    assert place.get(key) != yaml.safe_load(value)
    place[key] = yaml.safe_load(value)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    found[change] = sorted(stage for stage in Repo().status() if ":" not in stage)
path.write_text(kept)
print(json.dumps(found))
"""


def run(folder: Path, *command: str, code: int = 0) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, check=False, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(folder: Path, *arguments: str) -> str:
    return run(folder, "dvc", *arguments)


def commits(folder: Path) -> dict[str, int]:
    store = folder / "data/store"
    found = [path for path in store.rglob("*") if path.suffix == ".parquet" or (path.is_file() and path.name == "0")]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with this code, a tiny data set of three splits and params for it."""
    folder = tmp_path_factory.mktemp("repository")
    copy_code(CODE, folder)
    run(folder, "git", "init", "--quiet")
    dvc(folder, "init", "--quiet")
    shutil.copy(ROOT / ".dvcignore", folder / ".dvcignore")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    return folder


def edit(project: Path, section: str, key: str, value: object) -> None:
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text())
    place = values
    for name in section.split("."):
        place = place[name]
    place[key] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="module")
def project(repository: Path, project_at: Callable[[Path], Any]) -> Path:
    """That repository after a ``dvc repro verify`` that was killed in masks and one that went on."""
    data = project_at(repository)
    data.configure(
        store="data/store",
        shard_images=1,
        data__root="tiny-set",
        embed__mask_encoders=["demo_sam"],
        embed__image_encoders=[],
        run__report_dir="data/report",
        run__train_dir="data/train",
    )
    other = {"format": "reasonseg", "images": "other", "root": "other-set", "splits": list(SETS["other"])}
    edit(repository, "data", "other", other)
    words = {"format": "reasonseg", "images": "tiny", "root": "words-set", "splits": list(SETS["words"])}
    edit(repository, "data", "words", words)
    for name in ("tiny", "other"):
        for number, split in enumerate(SETS[name]):
            for seed in (0, 1):
                data.add(split, f"{split}{seed}", 2 * number + seed + 10 * len(name))
        data.data.rename(repository / f"{name}-set")
    for seed, name in enumerate(("train1", "val0")):
        data.annotate_folder("test")
        data.annotate("test", name, 50 + seed)
    data.data.rename(repository / "words-set")
    for name in ("means.tiny", "train"):
        edit(repository, name, "train", ["tiny/train"])
    run(repository, "git", "add", "--all")
    run(repository, "git", "commit", "--quiet", "--message", "begin")
    killed_in_masks(repository)
    before = commits(repository)
    out = dvc(repository, "repro", "verify")
    assert "not done" not in out
    assert {name: commits(repository)[name] for name in before} == before  # nothing committed was computed again
    return repository


def killed_in_masks(folder: Path) -> None:
    child = subprocess.Popen(
        ["dvc", "repro", "verify"], cwd=folder, env=ENVIRONMENT, start_new_session=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 400
    while not list((folder / "data/store").glob("*/masks/sam/*/00000.parquet")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert len(list((folder / "data/store").glob("*/masks/sam/*/*.parquet"))) < 6


def test_it_is_whole_and_a_second_run_is_a_no_op(project: Path) -> None:
    before = commits(project)
    out = run(project, "python", "cli.py", "verify", "--deep", "--complete")
    assert "0 missing, 0 stale" in out
    out = dvc(project, "repro", "verify")
    assert "Running stage" not in out
    assert "up to date" in out
    assert commits(project) == before


def test_the_demo_is_no_part_of_another_data_set(project: Path) -> None:
    out = dvc(project, "repro", "--dry", "--force", "verify")
    assert "'index@other'" in out
    assert "demo'" not in out
    assert not (project / "data/demo").exists()


def stages(*names: str) -> set[str]:
    return {f"{name}@{data}" for name in names for data in SETS if name != "means"} | {"means"} & set(names)


# Parameter -> stages whose own parameters it is; what reads their outputs runs if these change.
RERUN = {
    "shard_images=2": stages("hold", "index", "masks", "embed", "match", "center"),
    "data.tiny.max_pixels=5000": {"hold@tiny", "index@tiny"},
    "data.other.encoding=gbk": {"hold@other", "index@other"},
    "embed.max_masks=32": stages("masks", "embed", "means", "center"),
    "embed.image_encoders=[demo_clip]": stages("masks", "embed", "means", "center"),
    "proposers.sam.points_per_side=3": stages("masks", "embed", "match", "means", "center"),
    "proposers.sam.precision=bfloat16": stages("masks", "embed", "match", "means", "center"),
    "means.tiny.train=[other/val]": stages("means", "center"),
    "report.similarity_vectors=4": stages("center"),
    "train.seed=7": stages("hold"),  # it decides what a run draws, and so what `only: run NAME` lists
    "run.prefetch=0": set(),
    "run.max_failures=4": set(),
}


def test_every_parameter_reruns_its_stages(project: Path) -> None:
    out = run(project, "python", "-c", STATUS, json.dumps(list(RERUN)))
    found = json.loads(out.splitlines()[-1])
    data = {
        change: {n for n in names if not n.startswith(("train@", "evaluate@", "report@"))}
        for change, names in found.items()
    }
    assert {change: names - {"demo", "verify"} for change, names in data.items()} == RERUN


def running(out: str) -> list[str]:
    return re.findall("Running stage '(.*)'", out)


def committed(project: Path, message: str) -> None:
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", message)


@pytest.mark.slow
def test_a_changed_data_set_runs_its_stages_alone(project: Path, project_at: Callable[[Path], Any]) -> None:
    before = commits(project)
    more = project_at(project)
    more.add("val", "val2", 90)
    for path in (more.data / "val").iterdir():
        path.rename(project / "other-set/val" / path.name)
    (more.data / "val").rmdir()  # next to the store
    ran = running(dvc(project, "repro", "verify"))
    assert set(ran) == {f"{name}@other" for name in ("hold", "index", "masks", "embed", "match", "center")} | {
        "means",
        "verify",
    }
    assert all(commits(project)[name] == time for name, time in before.items() if "/tiny/" in name or "/means/" in name)
    assert "Running stage" not in dvc(project, "repro", "verify")


@pytest.mark.slow
def test_a_changed_picture_runs_the_stages_of_what_borrows_it(project: Path, project_at: Callable[[Path], Any]) -> None:
    before = commits(project)
    data = project_at(project)
    path = data.add_image("val", "val0", 77)
    path.replace(next((project / "tiny-set/val").glob("val0.[jp]*")))
    path.parent.rmdir()
    ran = running(dvc(project, "repro", "verify"))
    names = ("hold", "index", "masks", "embed", "match", "center")
    assert set(ran) >= {f"{name}@tiny" for name in names} | {f"{name}@words" for name in ("index", "embed", "match")}
    assert not [name for name in ran if name.endswith("@other") and name != "center@other"]
    order = [ran.index(name) for name in ("hold@tiny", "index@words", "match@words")]
    assert order == sorted(order)
    again = {name for name, time in commits(project).items() if before.get(name) != time}
    own = {name.removeprefix("data/store/words/") for name in again if "/words/" in name}
    assert {"images/test/00001.parquet", "match/sam/targets/test/00001.parquet"} <= own
    assert not [name for name in own if "/test/00000" in name or (name.endswith("/c/0/0/0") and "centered" not in name)]
    assert not list((project / "data/store/words").glob("masks/*"))


@pytest.mark.slow
def test_push_pull_of_one_data_set_and_work_on_it(project: Path, tmp_path: Path) -> None:
    committed(project, "done")
    dvc(project, "remote", "add", "--default", "--local", "near", str(tmp_path / "remote"))
    dvc(project, "push")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    assert not (clone / "data").exists()
    dvc(clone, "remote", "add", "--default", "--local", "near", str(tmp_path / "remote"))
    own = [f"{name}@other" for name in ("hold", "index", "masks", "embed", "match", "center")]
    dvc(clone, "pull", *own, "means")
    assert sorted(path.name for path in (clone / "data/store").iterdir()) == ["means", "other"]
    assert "Running stage" not in dvc(clone, "repro", "--allow-missing", *own[:5])
    edit(clone, "proposers.sam", "points_per_side", 1)
    ran = running(dvc(clone, "repro", "--single-item", *own[2:5]))
    assert ran == own[2:5]
    assert sorted(path.name for path in (clone / "data/store").iterdir()) == ["means", "other"]
    run(clone, "git", "checkout", "--quiet", "--force", "HEAD")
    dvc(clone, "pull", "--force")
    assert "0 missing, 0 stale" in run(clone, "python", "cli.py", "verify", "--deep", "--complete")


@pytest.mark.slow
def test_an_experiment_sets_a_parameter(project: Path) -> None:
    committed(project, "before the experiment") if run(project, "git", "status", "--porcelain") else None
    ran = running(dvc(project, "exp", "run", "--set-param", "report.similarity_vectors=4", "verify"))
    assert set(ran) == stages("center")  # the columns are as they were
    run(project, "git", "checkout", "--quiet", "--force", "HEAD")
    dvc(project, "checkout")


@pytest.mark.slow
def test_an_edited_parameter_updates_the_outputs(project: Path) -> None:
    edit(project, "means.tiny", "train", ["tiny/train", "other/val"])
    before, lock = commits(project), (project / "dvc.lock").read_text()
    assert set(running(dvc(project, "repro", "verify"))) == stages("means", "center") | {"verify"}
    again = {name.removeprefix("data/store/") for name, time in commits(project).items() if before[name] != time}
    assert {name.split("/")[0] if name.startswith("means") else name.split("/")[1] for name in again} == {
        "means", "centered"
    }  # fmt: skip
    assert (project / "dvc.lock").read_text() != lock


@pytest.mark.slow
def test_back_to_an_older_revision_and_forth(project: Path) -> None:
    """What DVC brings back is whole or is named; emptying its cache takes nothing from the store (F32)."""
    complete = ("python", "cli.py", "verify", "--deep", "--complete")
    committed(project, "means of two splits")
    newer = commits(project)
    run(project, "git", "checkout", "--quiet", "HEAD~1")
    assert "not done" in run(project, *complete, code=4)  # the newer store under the older parameters: said, not served
    dvc(project, "checkout")
    assert "0 missing, 0 stale" in run(project, *complete)
    assert "Running stage" not in dvc(project, "repro", "verify")

    dvc(project, "gc", "--workspace", "--force")  # takes the newer revision's outputs out of the cache
    assert "0 missing, 0 stale" in run(project, *complete)
    run(project, "git", "checkout", "--quiet", "-")
    assert "data/store/means" in run(project, "dvc", "checkout", code=255)
    assert "not done (missing)" in run(project, *complete, code=4)
    # Of what no cache holds any more, and only of that: the digests that `verify` depends on are the same again.
    assert set(running(dvc(project, "repro", "verify"))) == stages("means", "center")
    assert commits(project).keys() == newer.keys()
    assert "0 missing, 0 stale" in run(project, *complete)


@pytest.mark.slow
def test_an_edited_parameter_of_masks_reruns_what_lies_behind(project: Path) -> None:
    edit(project, "proposers.sam", "precision", "bfloat16")
    before = commits(project)
    ran = set(running(dvc(project, "repro", "verify")))
    assert ran == stages("masks", "embed", "match", "means", "center") | {"verify"}
    again = {name.removeprefix("data/store/") for name, time in commits(project).items() if before[name] != time}
    assert {name.split("/")[1] for name in again if name.startswith("tiny")} == {
        "masks", "mask_embeddings", "match", "centered"
    }  # fmt: skip
