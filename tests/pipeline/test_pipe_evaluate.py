"""``pipeline.evaluate``: any file of predictions in, a table and figures out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store

from pipeline.config import InputError, Settings, load_settings
from pipeline.evaluate import evaluate_command
from stages.evaluate import BASELINE_NAMES, Meta, Prediction, write
from stages.evaluate.published import published
from store import rle
from store.errors import StoreError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ready(empty: Any) -> tuple[Settings, Known]:
    """Settings of a store that holds ``d/val``."""
    empty.configure(dataset="d", splits=["val", "other"], normalize__train=["val"], masks__max_masks=16)
    return load_settings(empty.params), full_store(empty.store)


def answers(known: Known) -> list[Prediction]:
    rng = np.random.default_rng(0)
    ids = [target["target_id"] for targets in known.targets for target in targets]
    return [Prediction(name, 0, rle.encode(rng.random((4, 6)) < 0.5), False, (), "[SEG].") for name in ids]


def test_our_file_and_the_same_in_json_give_the_same_figures(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.json"
    write(ours, Meta("theirs", "d", "val", "teacher_forced", "proposals"), answers(known))
    coco = [{"size": [4, 6], "counts": answer.segmentation} for answer in answers(known)]
    ids = [answer.target_id for answer in answers(known)]
    theirs.write_text(json.dumps([{"target_id": a, "segmentation": b} for a, b in zip(ids, coco, strict=True)]))
    text, figures = evaluate_command(settings, "val", ours, "error")
    other_text, other = evaluate_command(settings, "val", theirs, "error")
    assert "teacher-forced" in text
    assert "generated" in other_text
    assert figures["mode"] == "teacher_forced"
    assert figures["questions"] == len(ids)
    mine = figures["groups"]["all"]["theirs"]
    assert mine["f1"]["value"] == 0
    assert other["groups"]["all"]["theirs"] == {
        k: v for k, v in mine.items() if k not in ("precision", "recall", "f1", "accuracy")
    }
    assert list(figures["groups"]["all"]) == ["theirs", *BASELINE_NAMES]
    json.dumps(figures, allow_nan=False)
    assert "No published figures for this split; there are some for ReasonSeg, LLM-Seg40K." in text
    for name in ("theirs", *BASELINE_NAMES):
        assert f"| {name} |" in text
    for title in ("All targets", "Short queries", "Long queries", "Existing targets", "Empty targets"):
        assert f"## {title}" in text


def test_candidates_are_those_that_are_embedded(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    image = next(k for k, masks in enumerate(known.masks) if len(masks) > 16)
    path = tmp_path / "ours.parquet"
    own = [
        Prediction(a.target_id, 0, None, False, (16,) * a.target_id.startswith(f"image{image}/"))
        for a in answers(known)
    ]
    write(path, Meta("s", "d", "val"), own)
    with pytest.raises(InputError, match="chose 16, which is none of the 16 candidates"):
        evaluate_command(settings, "val", path, "error")


def test_missing_predictions_are_counted(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    path = tmp_path / "ours.parquet"
    write(path, Meta("s", "d", "val"), answers(known)[2:])
    with pytest.raises(InputError, match="2 of .* predictions are missing"):
        evaluate_command(settings, "val", path, "error")
    text, figures = evaluate_command(settings, "val", path, "empty")
    assert figures["missing"] == 2
    assert "2 of them had no prediction and count as rejected." in text


def test_published_rows_stand_below_their_split(
    ready: tuple[Settings, Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the small store's data set were ReasonSeg."""
    settings, known = ready
    monkeypatch.setattr(
        "pipeline.evaluate.published", lambda dataset, split: published({"d": "ReasonSeg"}[dataset], split)
    )
    path = tmp_path / "ours.parquet"
    write(path, Meta("s", "d", "val"), answers(known))
    text, _ = evaluate_command(settings, "val", path, "error")
    assert "| LISA-7B (published: LISA, arXiv 2308.00692, Table 1) | 44.4 | 46 |" in text
    assert "No published figures" not in text


def test_what_cannot_be_evaluated(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    path = tmp_path / "ours.parquet"
    write(path, Meta("s", "d", "test"), answers(known))
    with pytest.raises(InputError, match="predictions are for d/test, expected d/val"):
        evaluate_command(settings, "val", path, "error")
    with pytest.raises(InputError, match="no such file or folder"):
        evaluate_command(settings, "val", tmp_path / "nothing.json", "error")
    with pytest.raises(InputError, match="--split: found 'dev'"):
        evaluate_command(settings, "dev", path, "error")
    with pytest.raises(InputError, match="--missing: found 'skip'"):
        evaluate_command(settings, "val", path, "skip")
    with pytest.raises(StoreError, match="holds no indexed split"):
        evaluate_command(settings, "other", path, "error")


def test_evaluation_imports_no_torch() -> None:
    code = "import sys, pipeline.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
