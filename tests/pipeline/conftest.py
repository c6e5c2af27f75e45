"""A small ReasonSeg folder, params for it, and the real command line, run in this process or in a child."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer.main
import yaml
from lending import borrow
from matplotlib.figure import Figure
from PIL import Image

from stages.datasets.params import DataParams, ReasonSegOptions
from store.errors import StoreError
from store.format.shard import committed_shards, read_commit, shard_path

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ("ant", "bee", "cat", "dog", "elk")
VAL = ("fox", "gnu", "hen")
# Thresholds that let every mask through: the tests must not depend on how good the demo models are.
ANY_MASK = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}

SAVEFIG = Figure.savefig
COMMANDS = functools.cache(typer.main.get_command)

torch.set_num_threads(1)


@dataclass(frozen=True)
class Done:
    """What a command left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass
class Project:
    """A data set, a params file and a store below one temporary folder."""

    folder: Path
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def params(self) -> Path:
        return self.folder / "params.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def configure(self, **changes: Any) -> None:
        """Write params.yaml: the committed one, made small.

        ``changes`` are ``section__key=value``; ``dataset``, ``splits`` and ``data__key`` are of its one data set.
        """
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        name = changes.pop("dataset", "tiny")
        data = {"images": name, "root": str(self.data), "splits": changes.pop("splits", ["train", "val"])}
        data |= {
            key: changes.pop(f"data__{key}")
            for key in (*DataParams.model_fields, *ReasonSegOptions.model_fields)
            if f"data__{key}" in changes
        }
        values |= {"store": str(self.store), "data": {name: {"format": "reasonseg", **data}}, "shard_images": 2}
        values["runs"] = {}
        values["proposers"] = {"sam": {"model": "demo_sam", **ANY_MASK}}
        values["train"] |= {"proposer": "sam", "train": ["train"]}
        values["embed"] |= {"mask_encoders": ["demo_alphaclip", "demo_sam"], "image_encoders": ["demo_clip"]}
        values["embed"] |= {"sam_features": ["demo_sam"], "max_masks": 16, "max_instances": 16}
        values |= {"means": {"tiny": {"train": ["train"]}}, "report": {"similarity_vectors": 8}}
        values["run"] |= {"report_dir": str(self.folder / "report"), "train_dir": str(self.folder / "trained")}
        values["run"] |= {"cache_dir": str(self.folder / "cache")}
        values["run"] |= {"device": "cpu", "threads": 1, "max_failures": 0}
        for name, value in changes.items():
            *sections, key = name.split("__")
            place = values
            for section in sections:
                place[section] = {**(place[section] or {})}
                place = place[section]
            place[key] = value
        self.values = values
        self.params.write_text(yaml.safe_dump(values, sort_keys=False))

    def add_image(self, split: str, name: str, seed: int, size: tuple[int, int] = (64, 48)) -> Path:
        rng = np.random.default_rng(seed)
        width, height = size
        pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        pixels[height // 4 : height // 2, width // 4 : width // 2] = rng.integers(120, 255, 3, dtype=np.uint8)
        path = self.data / split / f"{name}.{'png' if seed % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    def annotate(self, split: str, name: str, seed: int, regions: int | None = None) -> Path:
        rng = np.random.default_rng(1000 + seed)
        shapes = []
        for number in range(1 + seed % 3 if regions is None else regions):
            x, y = (int(value) for value in rng.integers(0, 40, 2))
            label = "ignore" if number == 2 else "target"
            shapes.append({"label": label, "points": [[x, y], [x + 20, y], [x + 20, y + 15], [x, y + 15]]})
        path = self.data / split / f"{name}.json"
        path.write_text(json.dumps({"shapes": shapes, "text": [f"the {name} that waits"], "is_sentence": True}))
        return path

    def add(self, split: str, name: str, seed: int, regions: int | None = None) -> Path:
        self.annotate_folder(split)
        path = self.add_image(split, name, seed)
        self.annotate(split, name, seed, regions)
        return path

    def annotate_folder(self, split: str) -> None:
        (self.data / split).mkdir(parents=True, exist_ok=True)

    def run(self, *arguments: str, before: tuple[str, ...] = ()) -> Done:
        """The command line in this process, with this project's params."""
        return run_cli("--params", str(self.params), *before, *arguments)

    def cli(self, *arguments: str) -> Done:
        """The command line in this process, with nothing added."""
        return run_cli(*arguments)

    def child(self, *arguments: str, **how: Any) -> subprocess.Popen[str]:
        """The command line in a process of its own."""
        command = [sys.executable, str(ROOT / "cli.py"), "--params", str(self.params), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, **{**pipes, **how})

    def build(self, *stages: str) -> None:
        for stage in stages or ("index", "extract", "normalize"):
            done = self.run(*stage.split())
            assert done.code == 0, done.out + done.err

    def info(self, *before: str) -> dict[str, Any]:
        return self.run("info", "--json", before=before).json()

    def commits(self) -> dict[str, dict[str, Any]]:
        """``masks/sam/train#0`` -> commit, of everything in the store (means: ``means/NAME/PROPOSER/ENCODER#0``)."""
        found = {}
        for path in sorted(self.store.rglob("column.json")):
            place = path.parent.relative_to(self.store).as_posix().removeprefix("tiny/")
            for shard in committed_shards(path.parent):
                with contextlib.suppress(StoreError):
                    commit = read_commit(path.parent, shard)
                    if commit is not None:  # None: a temporary file alone, which a kill left
                        found[f"{place}#{shard}"] = json.loads(json.dumps(vars(commit)))
        return found

    def content(self) -> dict[str, str]:
        """Shard -> digest of what it holds."""
        return {name: commit["content"] for name, commit in self.commits().items()}

    def times(self) -> dict[str, int]:
        """Shard -> when it was written: what was computed again since."""
        return {name: self.shard_path(name).stat().st_mtime_ns for name in self.commits()}

    def shard_path(self, name: str) -> Path:
        place, _, shard = name.partition("#")
        own = self.store / "tiny" / place
        return shard_path(own if own.is_dir() else self.store / place, int(shard), None)

    def recomputed(self, since: dict[str, int]) -> set[str]:
        return {name for name, time in self.times().items() if since.get(name) != time}

    def copy(self, folder: Path) -> Project:
        """The same data set, params and store elsewhere."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        other = Project(folder)
        other.configure()
        return other


@pytest.fixture(scope="module", autouse=True)
def plain_figures() -> Iterator[None]:
    """Figures are saved as small white pictures: drawing them took a third of the time of these tests."""
    white = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(white, "PNG")

    def save(_: Figure, target: Any, **how: Any) -> None:
        target.write(white.getvalue()) if hasattr(target, "write") else Path(target).write_bytes(white.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        # typer makes all commands out of their functions whenever one is run: 50 ms each time
        patch.setattr(typer.main, "get_command", COMMANDS)
        yield


@pytest.fixture(scope="module")
def drawn_figures() -> Iterator[None]:
    """Figures are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", SAVEFIG)
        yield


def run_cli(*arguments: str) -> Done:
    """``cli.main`` with its own arguments and its output caught."""
    out, err = io.StringIO(), io.StringIO()
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["cli.py", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = importlib.import_module("cli").main()
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
        os.environ.pop("ELISA_DEBUG", None)
    return Done(code, out.getvalue(), err.getvalue())


def fill(project: Project) -> Project:
    """Five train and three val images: shards of 2, 2, 1 and 2, 1."""
    for seed, name in enumerate(TRAIN):
        project.add("train", name, seed)
    for seed, name in enumerate(VAL, start=10):
        project.add("val", name, seed)
    (project.data / "explanatory").mkdir()
    (project.data / "explanatory/train.json").write_text(json.dumps([{"image": "ant.jpg", "outputs": "It waits."}]))
    project.configure()
    return project


@pytest.fixture(scope="session")
def cli() -> Callable[..., Done]:
    return run_cli


@pytest.fixture(scope="session")
def project_at() -> Callable[[Path], Project]:
    """Makes a project of a folder."""
    return Project


@pytest.fixture
def empty(tmp_path: Path) -> Project:
    """Params and no data."""
    project = Project(tmp_path)
    project.configure()
    return project


@pytest.fixture
def tiny(tmp_path: Path) -> Project:
    """The tiny data set; nothing is computed."""
    return fill(Project(tmp_path))


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Index, extract and normalize of the tiny data set, once per process. Read only: take ``finished`` to change it."""
    project = fill(Project(tmp_path_factory.mktemp("finished")))
    project.build()
    return project


@pytest.fixture
def finished(finished_once: Project, tmp_path: Path) -> Project:
    """A copy of the finished store and its data set, to be changed."""
    return finished_once.copy(tmp_path)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Address of a real LocalCluster with two worker processes. They take a sixth of a core while they wait: not for long."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="session")
def borrowed(finished_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny data set and one that borrows from it, finished once per process. Read only: take ``changed`` to change it."""
    project = borrow(finished_once.copy(tmp_path_factory.mktemp("borrowed")))
    project.build()
    return project


@pytest.fixture
def changed(borrowed: Project, tmp_path: Path) -> Project:
    """A copy that a test may change."""
    return borrow(borrowed.copy(tmp_path / "copy"))


@pytest.fixture(scope="session")
def browsed(finished_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished store with all that a browser page may meet, once per process. Read only."""
    from browsing import with_everything

    return with_everything(finished_once.copy(tmp_path_factory.mktemp("browsed")))
