"""``extract --dry-run``: what the work that is left will take, from what the commits say of the work that was done."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest

from pipeline.estimate import estimate
from pipeline.look import Look
from pipeline.params_file import load_settings
from pipeline.plan import plan_split
from stages.names import SplitRef


def test_nothing_was_computed_yet(tiny: Any) -> None:
    tiny.build("index")
    said = tiny.run("extract", "--split", "val", "--stage", "masks", "--dry-run").out
    assert "masks tiny/val: would compute" in said
    assert "how long is not known" in said
    assert "python cli.py extract --split val --stage masks --limit 1" in said


@pytest.mark.parametrize("stage", ["masks", "embed", "match"])
def test_the_first_shard_tells_of_the_others(finished: Any, stage: str) -> None:
    outputs = {"masks": ("masks", "sam_features"), "match": ("match",)}.get(
        stage, ("mask_embeddings", "instance_embeddings", "image_features")
    )
    actual = 0
    folders = [folder for name in outputs for folder in (finished.store / "tiny" / name).rglob("val")]
    assert folders
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        actual += sum(path.stat().st_size for path in files if path.suffix == ".parquet" or "c" in path.parts)
        shutil.rmtree(folder)
    said = finished.run("extract", "--split", "val", "--stage", stage, "--dry-run").out
    found = re.search(
        r"about (\S+) s for one worker \((\S+) s per image, measured on (\d+) images\), (\S+) MB on disk", said
    )
    assert found is not None, said
    assert float(found[1]) >= 0
    assert int(found[3]) == 3  # train's five in shards of 2, 2 and 1; the first of a shard is slow
    assert float(found[4]) == pytest.approx(actual / 1e6, rel=0.25, abs=0.05)
    assert not any(folder.exists() for folder in folders)


def test_other_parameters_and_other_work_are_no_evidence(finished: Any) -> None:
    for folder in sorted((finished.store / "tiny/match").rglob("val")):
        shutil.rmtree(folder)
    settings = load_settings(finished.params)
    plans = [plan for plan in plan_split(settings, SplitRef("tiny", "val"))[0] if plan.spec.stage == "match"]
    todo = {0: ["match/sam/targets", "match/sam/instances"]}
    found = estimate(Look(settings), plans, todo)
    assert found is not None
    assert found.gpu_bytes is None
    assert found.bytes > 0
    assert estimate(Look(settings), plans, {0: ["match/sam/targets"]}) is None  # it was never computed alone
    other = load_settings(finished.params, ["run.threads=7"])
    assert estimate(Look(other), plans, todo) is None
