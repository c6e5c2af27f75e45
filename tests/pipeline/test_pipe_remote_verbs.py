"""Verbs that read a store, with the store in a bucket: they show and write what they do with the same store in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import answer, served

from store.storage.listing import files_below
from store.storage.objects import replace_object
from tests.s3 import Server


@pytest.fixture(scope="module")
def project(finished_once: Any, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished project with answers of two runs; its store was copied to a bucket, and ``here`` and ``there`` are params."""
    project = finished_once.copy(tmp_path_factory.mktemp("verbs"))
    for run, right in (("elisa", True), ("lisa", False)):
        answer(project, run, right)
    address = f"s3://{server.bucket()}/store"
    for path in files_below(project.store):
        replace_object(Path(address) / path.relative_to(project.store), path.read_bytes(), durable=False)
    project.configure(store=address)
    return project


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("to", ["coco", "numpy"])
def test_export(project: Any, tmp_path: Path, to: str) -> None:
    words = ("export", "--to", to, "--split", "val", "--out")
    assert project.run(*words, str(tmp_path / "there")).code == 0
    assert project.run(*words, str(tmp_path / "here"), before=("--set", f"store={project.store}")).code == 0
    there, here = outputs(tmp_path / "there"), outputs(tmp_path / "here")
    assert there.keys() == here.keys()
    assert len(there) > 0
    assert [name for name in here if name.endswith((".npz", "instances.json")) and here[name] != there[name]] == []


@pytest.mark.parametrize("verb", ["info", "runs", "verify"])
def test_verbs_that_show(project: Any, verb: str) -> None:
    done = project.run(verb)
    assert done.code == 0, done.err


def test_browse(project: Any) -> None:
    with served(project.params) as running:
        assert "tiny/val" in str(running.get("/api/splits").json())
        assert running.get("/").status == 200


def test_report(project: Any, tmp_path: Path) -> None:
    done = project.run("report", "--split", "val", "--out", str(tmp_path))
    assert done.code == 0, done.err
    assert "val.html: 3 questions" in done.out


@pytest.mark.slow
def test_train_and_ask(project: Any, tmp_path: Path) -> None:
    changes = ("--set", "train.epochs=1", "--set", "train.batch_size=5", "--set", f"run.train_dir={tmp_path}")
    question = ("--question", "the fox that waits")
    for verb in (
        "train --system elisa",
        "evaluate --system elisa --split val",
        "ask --system elisa --image tiny/val/fox",
    ):
        words = [*verb.split(), *(question if verb.startswith("ask") else ())]
        done = project.run(*words, before=changes)
        assert done.code == 0, (verb, done.err)
