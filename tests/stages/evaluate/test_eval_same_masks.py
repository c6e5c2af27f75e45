"""The same masks give the same figures, whoever wrote them and in whatever form: ours, JSON, JSON lines and PNGs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stages.evaluate import Meta, Prediction, read, read_external, score, write
from stages.evaluate.metrics import METRICS, value
from store import Split, rle

Masks = dict[str, NDArray[np.bool_]]


def parquet(masks: Masks, folder: Path, rejected: bool | None) -> Path:
    path = folder / "a.parquet"
    write(
        path, Meta("a", "d", "val"), [Prediction(name, 0, rle.encode(mask), rejected) for name, mask in masks.items()]
    )
    return path


def parquet_with_nulls(masks: Masks, folder: Path) -> Path:
    path = folder / "a.parquet"
    found = [Prediction(name, 0, rle.encode(mask) if mask.any() else None, False) for name, mask in masks.items()]
    write(path, Meta("a", "d", "val"), found)
    return path


def entries(masks: Masks, **more: Any) -> list[dict[str, Any]]:
    return [
        {"target_id": name, "segmentation": {"size": [4, 6], "counts": rle.encode(mask)}, **more}
        for name, mask in masks.items()
    ]


def json_file(masks: Masks, folder: Path, **more: Any) -> Path:
    (folder / "a.json").write_text(json.dumps(entries(masks, **more)))
    return folder / "a.json"


def json_with_nulls(masks: Masks, folder: Path) -> Path:
    found = [
        {**one, "segmentation": one["segmentation"] if masks[one["target_id"]].any() else None}
        for one in entries(masks)
    ]
    (folder / "a.json").write_text(json.dumps(found))
    return folder / "a.json"


def json_lines(masks: Masks, folder: Path) -> Path:
    (folder / "a.jsonl").write_text("\n".join(json.dumps(one) for one in entries(masks, rejected=False)))
    return folder / "a.jsonl"


def pngs(masks: Masks, folder: Path, values: int = 255) -> Path:
    for name, mask in masks.items():
        (folder / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * values).save(folder / "a" / f"{name}.png")
    return folder / "a"


FORMS: dict[str, Callable[[Masks, Path], Path]] = {
    "ours": lambda masks, folder: parquet(masks, folder, False),
    "ours, not known what was said": lambda masks, folder: parquet(masks, folder, None),
    "ours, without empty masks": parquet_with_nulls,
    "JSON": json_file,
    "JSON that says so": lambda masks, folder: json_file(masks, folder, rejected=False),
    "JSON without empty masks": json_with_nulls,
    "JSON lines": json_lines,
    "PNGs": pngs,
    "PNGs of 0 and 1": lambda masks, folder: pngs(masks, folder, 1),
}


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0]))
@settings(deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_form_has_the_same_figures(
    split: Split, known: Known, tmp_path_factory: pytest.TempPathFactory, seed: int, empty: float
) -> None:
    rng = np.random.default_rng(seed)
    ids = [target["target_id"] for targets in known.targets for target in targets]
    masks = {name: (rng.random((4, 6)) < 0.4) & (rng.random() >= empty) for name in ids}
    found = {}
    for name, form in FORMS.items():
        path = form(masks, tmp_path_factory.mktemp("form"))
        answers = read(path)[1] if path.suffix == ".parquet" else read_external(path, split)
        samples = score(split, answers).systems["predictions"]
        figures = {metric: value(compute(samples)) for metric, compute in METRICS.items()}
        found[name] = {metric: figure for metric, figure in figures.items() if not math.isnan(figure)}
    assert all(figures == found["ours"] for figures in found.values()), found
    exists = np.array([bool(target["instances"]) for targets in known.targets for target in targets])
    none = np.array([not mask.any() for mask in masks.values()])
    assert found["ours"]["n_acc"] == pytest.approx(none[~exists].mean())
    assert found["ours"]["t_acc"] == pytest.approx(1 - none[exists].mean())
