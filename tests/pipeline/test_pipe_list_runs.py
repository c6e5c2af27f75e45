"""``runs`` lists what there is with its state; ``evaluate --keep`` puts others' predictions among them."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from answering import answers_of, guesses, run_of
from factory import Known, full_store

from stages.evaluate import read

SMALL = {"dataset": "d", "splits": ["val"], "means": {"tiny": {"train": ["val"]}}, "embed__max_masks": 16}


@pytest.fixture
def ready(empty: Any) -> tuple[Any, Known]:
    """``d/val`` and a run ``elisa``; ``wide`` stands in the params and is not trained."""
    empty.configure(**SMALL, runs={"wide": {"system": "elisa", "seed": 3}})
    known = full_store(empty.store)
    run_of(
        empty, "elisa", columns={"d/targets/val": "0" * 64, "d/masks/sam/val": "0" * 64, "other/targets/all": "0" * 64}
    )
    return empty, known


def ids(known: Known) -> list[str]:
    return [target["target_id"] for targets in known.targets for target in targets]


def by_name(project: Any, *before: str) -> dict[str, Any]:
    return {one["name"]: one for one in project.run("runs", "--json", before=before).json()}


def typed(text: str) -> list[str]:
    return re.findall(r"python cli\.py (.*)", text)


def test_nothing_trained_says_what_to_type(empty: Any) -> None:
    done = empty.run("runs")
    assert done.code == 0
    assert "no runs: nothing is trained in" in done.out
    assert shlex.split(typed(done.out)[0])[-3:] == ["train", "--system", "elisa"]
    assert empty.run("runs", "--json").json() == []


def test_planned_stale_and_done(ready: tuple[Any, Known]) -> None:
    project, _ = ready
    found = by_name(project)
    assert {name: one["state"] for name, one in found.items()} == {"elisa": "stale", "wide": "planned"}
    assert found["elisa"]["trained_on"] == ["d/val", "other/all"]
    assert found["elisa"]["why"] == ["data in d/targets/val changed", "data in d/masks/sam/val changed"]
    assert found["wide"]["type"].endswith("train --name wide")
    run_of(project, "elisa")
    found = by_name(project)["elisa"]
    assert (found["state"], found["step"], found["epoch"], found["why"]) == ("done", 7, 1.0, [])
    assert found["trained_on"] == ["d/train"]  # a record without columns says it by its parameters
    assert len(found["digest"]) == 64
    found = by_name(project, "--set", "train.seed=4")["elisa"]
    assert (found["state"], found["why"]) == ("stale", ["train.seed: 0 -> 4"])
    assert "elisa; stale, 7 steps; 2" in project.run("runs", before=("--set", "train.seed=4")).out


def test_training_says_how_far_it_is(ready: tuple[Any, Known]) -> None:
    project, _ = ready
    folder = run_of(project, "elisa")
    checkpoint = folder / "checkpoints/checkpoint-40"
    checkpoint.mkdir(parents=True)
    (folder / "run.json").rename(folder / "checkpoints/run.json")
    assert "elisa; training: no checkpoint yet; " in project.run("runs").out
    (checkpoint / "loader.json").write_text("{}")
    os.utime(checkpoint / "loader.json", (1e9, 1e9))
    assert by_name(project)["elisa"]["step"] == 40  # also without the trainer's file
    (checkpoint / "trainer_state.json").write_text('{"epoch": 1.25, "max_steps": 96, "num_train_epochs": 3}')
    found = by_name(project)["elisa"]
    assert (found["state"], found["step"], found["steps"], found["epochs"]) == ("training", 40, 96, 3)
    assert found["when"].startswith("2001-09-0")
    text = project.run("runs").out
    assert "training: step 40 of 96, epoch 1.25 of 3" in text
    assert f"to go on: {found['type']}" in text


def test_figures_belong_to_the_answers_and_others_are_out_of_date(ready: tuple[Any, Known]) -> None:
    project, known = ready
    run_of(project, "elisa")
    path = answers_of(project, "elisa", "d/val", guesses(ids(known), 0))
    (one,) = by_name(project)["elisa"]["evaluated"]
    assert (one["split"], one["figures"], one["why"]) == ("d/val", None, [])
    assert one["type"].endswith("evaluate --system elisa --split val")
    assert f"    run: {one['type']}" in project.run("runs").out
    meta, _ = read(path)
    metrics = project.folder / "report/metrics/evaluate/elisa/d/val.json"
    metrics.parent.mkdir(parents=True)
    estimate = {"value": 0.25, "low": 0.2, "high": 0.3, "samples": 17}
    kept = {"system": "elisa", "run": meta.run, "answering": json.loads(meta.answering), "columns": {}, "questions": 17}
    metrics.write_text(
        json.dumps({**kept, "groups": {"all": {"elisa": {"miou_per_sample": estimate, "ciou": estimate}}}})
    )
    (one,) = by_name(project)["elisa"]["evaluated"]
    assert one["figures"]["miou_per_sample"] == estimate
    assert one["type"] is None
    assert (
        "d/val: mean IoU (LISA's gIoU) 25.0 [20.0, 30.0], cIoU 25.0 [20.0, 30.0]; 17 questions"
        in project.run("runs").out
    )
    answers_of(project, "elisa", "d/val", guesses(ids(known), 0), run="1" * 64)
    (one,) = by_name(project)["elisa"]["evaluated"]
    assert one["figures"] is None  # they are of other answers
    assert one["why"] == [f"answers of run 111111111111, the model is {meta.run[:12]}"]
    path.write_bytes(b"damaged")
    (one,) = by_name(project)["elisa"]["evaluated"]
    assert "cannot be read: " in one["why"][0]
    assert project.run("runs").code == 0


def test_folders_without_a_record_and_moved_ones(ready: tuple[Any, Known]) -> None:
    project, _ = ready
    folder = run_of(project, "elisa")
    digest = by_name(project)["elisa"]["digest"]
    folder.rename(folder.with_name(f"elisa-{digest[:12]}"))
    (folder.with_name("odd") / "predictions").mkdir(parents=True)
    found = by_name(project)
    assert {name: one["state"] for name, one in found.items()} == {
        "wide": "planned",
        f"elisa-{digest[:12]}": "moved aside",
        "odd": "unknown",
    }
    assert "nothing in its folder says which run it is" in project.run("runs").out


def written(project: Any, known: Known, name: str, seed: int = 0) -> Path:
    entries = [
        {"target_id": one.target_id, "segmentation": one.segmentation and {"size": [4, 6], "counts": one.segmentation}}
        for one in guesses(ids(known), seed)
    ]
    path = project.folder / name
    path.write_text(json.dumps(entries))
    return path


def test_others_predictions_are_kept_under_a_name(ready: tuple[Any, Known]) -> None:
    project, known = ready
    path = written(project, known, "from_them.json")
    words = ("evaluate", "--predictions", str(path), "--split", "val", "--keep")
    shown = project.run(*words, "theirs", "--json").json()
    found = by_name(project)["theirs"]
    assert (found["state"], found["system"], found["trained_on"]) == ("external", None, [])
    (one,) = found["evaluated"]
    assert one["file"] == "from_them.json"
    assert one["sha256"] == found["digest"]
    assert one["figures"]["ciou"] == shown["groups"]["all"]["theirs"]["ciou"]
    assert "theirs  external; 2" in project.run("runs").out
    assert project.run(*words, "theirs").code == 0  # the same again
    other = written(project, known, "other.json", 1)
    done = project.run("evaluate", "--predictions", str(other), "--split", "val", "--keep", "theirs")
    assert done.code == 2
    assert "'theirs' holds other predictions for d/val: from_them.json, sha256 " in done.err
    before = (project.folder / "trained/theirs/external.json").read_bytes()
    for name, said in (
        ("elisa", "the name of a run that is trained here"),
        ("wide", "the name of a run that is trained here"),
        ("../up", "--keep: found '../up', expected letters"),
    ):
        done = project.run(*words, name)
        assert done.code == 2
        assert said in done.err
    done = project.run("train", "--system", "elisa", "--name", "theirs")
    assert done.code == 2
    assert "under which external predictions are kept in" in done.err
    done = project.run("evaluate", "--system", "elisa", "--split", "val", "--keep", "mine")
    assert done.code == 2
    assert "found --keep without --predictions" in done.err
    assert (project.folder / "trained/theirs/external.json").read_bytes() == before
    (project.folder / "trained/theirs/external.json").write_text("[]")
    done = project.run("runs")
    assert done.code == 2
    assert "not a record of external predictions" in done.err
