"""Two proposers in one project: columns of their own, computed alone or together, compared by report and evaluate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store import open_split
from store.format.names import proposer_of

GRID = {"kind": "grid", "cells_per_side": [2]}


def with_grid(project: Any, **options: Any) -> Any:
    """The project, with two proposers, one encoder and one split."""
    changes = {
        "splits": ["val"],
        "means": {"tiny": {"train": ["val"]}},
        "embed__mask_encoders": ["demo_sam"],
        **options,
    }
    project.configure(**changes)
    project.configure(**changes, proposers={**project.values["proposers"], "grid": GRID})
    return project


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, project_at: Callable[[Path], Any]) -> tuple[Any, Counter[str]]:
    """Everything computed, and how often each image was decoded by the stages that read pixels."""
    import pipeline.inputs

    project = project_at(tmp_path_factory.mktemp("both"))
    for seed, name in enumerate(("fox", "gnu", "hen"), start=10):
        project.add("val", name, seed)
    with_grid(project)
    project.build("index")
    decoded: Counter[str] = Counter()
    whole = pipeline.inputs.read_image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline.inputs, "read_image", lambda path, most: (decoded.update([path.stem]), whole(path, most))[1]
        )
        project.build("extract --stage masks", "extract --stage embed", "extract --stage match", "normalize")
    return project, decoded


def test_every_column_of_masks_has_its_proposer(both: tuple[Any, Counter[str]]) -> None:
    project, _ = both
    split = open_split(project.store, "tiny", "val")
    assert split.proposers == ("grid", "sam")
    of = {name: {column for column in split.columns if proposer_of(column) == name} for name in split.proposers}
    assert {column.replace("grid", "sam") for column in of["grid"]} == of["sam"]
    assert len(of["sam"]) == 6  # masks, vectors, two of match, two centred
    assert {"instance_embeddings/demo_sam", "sam_features/demo_sam", "image_features/demo_clip"} <= set(split.columns)
    for record in split.of_proposer("grid"):
        assert len(record.masks) == len(record["mask_embeddings/demo_sam"]) == 4
        assert all(len(target["iou"]) == 4 for target in record.targets)
        assert sum(mask["area"] for mask in record.masks) == record.height_px * record.width_px
    assert set(json.loads((project.folder / "report/tiny/normalize.json").read_text())["tiny"]) == {
        "sam/demo_sam",
        "grid/demo_sam",
    }


def test_an_image_is_decoded_once_per_stage_for_all_proposers(both: tuple[Any, Counter[str]]) -> None:
    assert both[1] == {"fox": 2, "gnu": 2, "hen": 2}  # masks and embed


def test_a_changed_option_makes_that_proposers_columns_stale_alone(both: tuple[Any, Counter[str]]) -> None:
    project, _ = both
    for change, changed in (("proposers.grid.cells_per_side=[3]", "grid"), ("proposers.sam.points_per_side=3", "sam")):
        columns = project.info("--set", change)["splits"]["tiny/val"]["columns"]
        stale = {name for name, column in columns.items() if column["shards"]["stale"]}
        assert stale == {name for name in columns if proposer_of(name) == changed}


def test_extract_can_be_narrowed_to_a_proposer(tiny: Any) -> None:
    with_grid(tiny)
    tiny.build("index --split val", "extract --split val --proposer grid --stage masks")
    made = {name.partition("#")[0] for name in tiny.commits() if name.startswith(("masks", "sam_features"))}
    assert made == {"masks/grid/val", "sam_features/demo_sam/val"}, "what has no proposer is computed with any"
    tiny.build("extract --split val --proposer grid --stage match")
    assert not [name for name in tiny.commits() if proposer_of(name.rpartition("/")[0]) == "sam"]
    plan = tiny.run("extract", "--split", "val", "--stage", "masks", "--dry-run").out
    assert "of masks/sam" in plan
    assert "of masks/grid" not in plan


def test_a_training_on_masks_that_are_not_there_says_what_to_type(tiny: Any) -> None:
    with_grid(tiny)
    tiny.build("index --split val", "extract --split val --proposer grid --stage masks")
    done = tiny.run("train", "--system", "elisa", before=("--set", "train.train=[val]"))
    assert done.code == 2
    assert "tiny/val: no column of a proposer 'sam'; found grid; run: python cli.py" in done.err
    assert "extract --split val" in done.err


def test_report_and_evaluate_compare_and_name_the_proposers(both: tuple[Any, Counter[str]]) -> None:
    project, _ = both
    done = project.run("report", "--split", "val", "--cases", "1")
    assert done.code == 0, done.err
    page = (project.folder / "report/tiny/val.html").read_text()
    for words in (
        "oracle best mask, sam",
        "oracle best mask, grid",
        "sam, by predicted_iou: ",
        "grid, largest first: ",
    ):
        assert words in page
    answers = project.folder / "theirs.jsonl"
    questions = [
        target["target_id"]
        for record in open_split(project.store, "tiny", "val", columns=["targets"])
        for target in record.targets
    ]
    answers.write_text("".join(json.dumps({"target_id": name, "segmentation": None}) + "\n" for name in questions))
    evaluate, oracle = ("evaluate", "--predictions", str(answers), "--split", "val"), {}
    for proposer in ("sam", "grid"):
        done = project.run(
            "evaluate",
            "--predictions",
            str(answers),
            "--split",
            "val",
            "--json",
            before=("--set", f"train.proposer={proposer}"),
        )
        figures = done.json()
        assert figures["proposer"] == proposer
        oracle[proposer] = figures["groups"]["all"]["oracle best mask"]["miou_per_sample"]
    assert oracle["sam"] != oracle["grid"]
    text = project.run(*evaluate).out
    assert "candidates: proposals of sam." in text
