"""Images and masks in which there is nothing, through the command line, read back from the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from store.format.shard import read_commit

ENCODERS = ("demo_alphaclip", "demo_dinov2", "demo_sam")
OUTSIDE = [[900, 900], [940, 900], [940, 940]]
INSIDE = [[8, 8], [30, 8], [30, 30], [8, 30]]


def add(project: Any, split: str, name: str, pixels: np.ndarray, *polygons: list[list[int]]) -> None:
    folder = project.data / split
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    shapes = [{"label": "target", "points": points} for points in polygons]
    text = {"shapes": shapes, "text": [f"the {name}"], "is_sentence": True}
    (folder / f"{name}.json").write_text(json.dumps(text))


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory, finished_once: Any) -> Any:
    """One colour, one pixel, one line, and annotations of which one lies outside of its image; thresholds of 0."""
    project = type(finished_once)(tmp_path_factory.mktemp("nothing"))
    grey = np.full((48, 64, 3), 128, np.uint8)
    drawn = grey.copy()
    drawn[10:30, 10:40] = 200, 30, 30
    for split in ("train", "val"):
        add(project, split, "colour", grey, OUTSIDE, INSIDE)
        add(project, split, "drawn", drawn, INSIDE)
        add(project, split, "line", grey[:1], [[0, 0], [9, 0], [9, 1]])
        add(project, split, "point", grey[:1, :1], [[0, 0], [1, 0], [1, 1]])
    project.configure(embed__mask_encoders=list(ENCODERS), proposers__sam__points_per_side=4)
    project.build()
    return project


def table(project: Any, place: str) -> list[dict[str, Any]]:
    files = sorted((project.store / "tiny" / place).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def vectors(project: Any, place: str) -> np.ndarray:
    found: np.ndarray = zarr.open_array(project.store / "tiny" / place, mode="r")[:]
    return found


def test_every_proposal_has_pixels_and_finite_scores(nothing: Any) -> None:
    rows = table(nothing, "masks/sam/train")
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert len(rows[0]["area"]) == 0, "of one colour the demo's model makes empty masks alone"
    assert len(rows[1]["area"]) > 0
    for row in rows:
        assert all(area > 0 for area in row["area"])
        assert np.isfinite(row["stability_score"]).all()
        assert np.isfinite(row["predicted_iou"]).all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_zero_vectors_have_no_vote_and_stay_zero(nothing: Any, encoder: str) -> None:
    voting = []
    for split in ("train", "val"):
        for column, name in (
            (f"mask_embeddings/sam/{encoder}", "masks/sam"),
            (f"instance_embeddings/{encoder}", "instances"),
        ):
            moved_to = f"centered/tiny/{column.partition('/')[0]}/sam/{encoder}"
            raw, moved = (vectors(nothing, f"{each}/{split}") for each in (column, moved_to))
            for row, before, after in zip(table(nothing, f"{name}/{split}"), raw, moved, strict=True):
                count = min(len(row["area"]), len(before))
                assert before[:count].any(axis=1).tolist() == [area > 0 for area in row["area"][:count]]
                assert after[:count].any(axis=1).tolist() == [area > 0 for area in row["area"][:count]]
                if split == "train":
                    voting.append(before[:count][before[:count].any(axis=1)].astype(np.float64))
    commit = read_commit(nothing.store / "means/tiny/sam" / encoder, 0)
    mean = zarr.open_array(nothing.store / "means/tiny/sam" / encoder, mode="r")[0]
    together = np.concatenate(voting)
    assert commit.extra["count"] == len(together)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-9, atol=1e-12)


def test_the_rest_of_the_pipeline_goes_on(nothing: Any) -> None:
    assert nothing.run("verify", "--deep", "--complete").code == 0
    report = json.loads((Path(nothing.values["run"]["report_dir"]) / "tiny" / "normalize.json").read_text())
    assert set(report["tiny"]) == {f"sam/{encoder}" for encoder in ENCODERS}
