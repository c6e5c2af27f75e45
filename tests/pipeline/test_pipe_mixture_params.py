"""The papers' mixtures as params files: they load, their runs are there, and shares and forms are the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ROOT, InputError
from pipeline.params_file import load_settings
from pipeline.runs import resolve
from stages.train.params import TrainParams

RUNS = {
    ("llmseg_mixture", "llmseg"): ([9, 3, 1], "lisa"),
    ("lisa_mixture", "lisa"): ([9, 3, 3, 1], "lisa"),
    ("gsva_mixture", "gsva"): ([9, 3, 3, 1], "gsva"),
    ("sesame_mixture", "sesame_refer"): ([12, 2, 2, 1], "sesame"),
    ("sesame_mixture", "sesame_reason"): ([10, 10, 2, 3, 1, 1], "sesame"),
}
"""File and run -> weights in the order of the published script, and the form."""


def params_of(file: str, run: str) -> TrainParams:
    return resolve(load_settings(ROOT / f"params/{file}.yaml"), None, run).params


@pytest.mark.parametrize(("file", "run"), RUNS)
def test_a_published_mixture_is_ready_to_run(file: str, run: str) -> None:
    settings = load_settings(ROOT / f"params/{file}.yaml")
    found = resolve(settings, None, run)
    weights, form = RUNS[file, run]
    assert [group.weight for group in found.params.mixture.values()] == weights
    assert getattr(found.params, found.system).form == form
    assert settings.refs("train.mixture", found.params.splits)
    borrowed = {name for name, data in settings.data.items() if data.images == "coco"} - {"coco"}
    assert set(settings.data["coco"].only) == borrowed


def test_false_premises_are_asked_as_published() -> None:
    asked = {run: {name: group.absent for name, group in params_of(*run).mixture.items()} for run in RUNS}
    assert set(asked["lisa_mixture", "lisa"].values()) == {0.0}
    assert asked["gsva_mixture", "gsva"]["refer_seg"] == "redrawn"
    assert params_of("gsva_mixture", "gsva").questions == 5
    reason = asked["sesame_mixture", "sesame_reason"]
    assert (reason["reason"], reason["correct"], reason["neg"], reason["refer"]) == (0.15, "pooled", "pooled", 0.0)


def test_a_wrong_file_of_prompts_is_told_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("version: 1\nlisa: {answers: [It is.]}\n")
    settings = load_settings(ROOT / "params/lisa_mixture.yaml", [f"train.prompts={tmp_path / 'own.yaml'}"])
    with pytest.raises(InputError, match=r"own.yaml: lisa.answers.0: found 'It is.', expected one \[SEG\]"):
        resolve(settings, None, "lisa")
