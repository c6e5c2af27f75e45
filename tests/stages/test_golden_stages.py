"""Numbers of every stage on the photographs: they may change only together with the stage's VERSION.

If this fails on purpose, raise VERSION of the stage and put the numbers of the message into golden_stages.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages import center, embed, index, masks, match, means
from stages.base import Entry, ShardInput
from stages.datasets import reasonseg
from stages.images import read_image
from stages.proposers.sam import generator
from stages.proposers.sam.model import new_sam
from store.write.writer import ShardData

GOLDEN = Path(__file__).with_name("golden_stages.json")
PHOTOS = ROOT / "tests/data/photos"
SETTINGS = load_settings(
    ROOT / "params.yaml",
    [
        f"data.demo.root={PHOTOS}",
        "proposers={sam: {model: demo_sam, max_side_px: 96, points_per_side: 3, pred_iou_thresh: 0, stability_score_thresh: 0,"
        " box_nms_thresh: 1.0}}",
        "train.proposer=sam",
        "embed={mask_encoders: [demo_sam], image_encoders: [], precision: float32, max_masks: 16, max_instances: 16}",
        "run.device=cpu",
    ],
).of("demo")


COLUMNS = {"mask_embeddings": "mask_embeddings/sam/demo_sam", "instance_embeddings": "instance_embeddings/demo_sam"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """SAM with smooth random weights that make several different masks per image."""
    torch.manual_seed(3)
    sam = new_sam("demo_sam")
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
        for layer in sam.mask_decoder.output_hypernetworks_mlps:
            layer.layers[-1].weight *= 30
    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(sam.state_dict(), path)
    return {"demo_sam": path}


@pytest.fixture(scope="module")
def run(weights: Mapping[str, Path]) -> Callable[[], dict[str, ShardData]]:
    """Run the stages one after the other on the val photographs, by their functions alone: no store is needed."""

    def run_all() -> dict[str, ShardData]:
        entries = tuple(Entry(source) for source in reasonseg.list_sources(PHOTOS, "val"))
        done: dict[str, ShardData] = {}
        shard = ShardInput(
            indices=range(len(entries)),
            rows=lambda name: list(done[name].rows),  # type: ignore[arg-type]
            array=lambda name, position: done[name].rows[position],  # type: ignore[return-value]
            trouble=lambda name, position: None,
            pixels=lambda: (read_image(PHOTOS / entry.source.path, 10**8) for entry in entries),
            tick=lambda images: None,
            entries=entries,
        )
        for stage in (index, masks, embed, match):
            names = [spec.name for spec in stage.columns(SETTINGS)]
            done |= stage.start(SETTINGS, names, weights, ROOT)(shard)
        reduced = {spec.name: spec.reads for spec in means.columns(SETTINGS)}
        for name, reads in reduced.items():
            done[name] = means.whole(means.part(done[read].rows) for read in reads)  # type: ignore[arg-type]
        names = [spec.name for spec in center.columns(SETTINGS)]
        mean_shard = ShardInput(
            shard.indices,
            shard.rows,
            lambda name, position: done[name].rows[0 if name in reduced else position],  # type: ignore[return-value]
            shard.trouble,
            shard.pixels,
            shard.tick,
        )
        return done | center.start(SETTINGS, names, {}, ROOT)(mean_shard)

    return run_all


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def numbers(done: Mapping[str, ShardData]) -> dict[str, Any]:
    """Exact digests of what integers decide, a few rounded figures of what floats do."""
    proposals = done["masks/sam"].rows
    vectors = {name: np.concatenate(list(data.rows)) for name, data in done.items() if "embeddings" in name}
    return {
        "index": {
            "version": index.VERSION,
            "targets_version": index.TARGETS_VERSION,
            **{name: digest(done[name].rows) for name in ("images", "instances", "targets")},
        },
        "masks": {
            "version": masks.VERSION,
            "counts": list(done["masks/sam"].counts),
            "area": [row["area"][:2] for row in proposals],
            "predicted_iou": [round(row["predicted_iou"][0], 3) for row in proposals],
            "stability_score": [round(row["stability_score"][0], 3) for row in proposals],
            "point_coords": [row["point_coords"][0] for row in proposals],
        },
        "embed": {"version": embed.VERSION, **{name: stats(vectors[column]) for name, column in COLUMNS.items()}},
        "match": {
            "version": match.VERSION,
            "iou": [round(max(row["iou"]), 3) for row in done["match/sam/targets"].rows],
            "iop_valid": [round(max(row["iop_valid"]), 3) for row in done["match/sam/targets"].rows],
        },
        "means": {
            "version": means.VERSION,
            "mean": [round(float(item), 3) for item in done["means/demo/sam/demo_sam"].rows[0][:4]],
            "count": done["means/demo/sam/demo_sam"].extra["count"],
        },
        "center": {
            "version": center.VERSION,
            **{name: stats(vectors[f"centered/demo/{name}/sam/demo_sam"]) for name in means.KINDS},
        },
    }


def stats(vectors: np.ndarray) -> list[float]:
    values = vectors.astype(np.float64)
    return [round(float(item), 3) for item in (values.mean(), values.std(), values[0, 0], values[-1, -1])]


def test_no_number_changes_without_its_version(run: Callable[[], dict[str, ShardData]]) -> None:
    got = numbers(run())
    want = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert want.keys() == got.keys(), json.dumps(got)
    for stage, values in want.items():
        for name, expected in values.items():
            message = (
                f"{stage}.{name} changed; raise stages/{stage}.VERSION and paste into {GOLDEN.name}:\n{json.dumps(got)}"
            )
            assert _close(got[stage][name], expected), message


def _close(got: Any, want: Any) -> bool:
    """Equal; numbers to 2 % or 0.01 (areas of masks at a threshold move a little between processors)."""
    if isinstance(want, str):
        return bool(got == want)
    if np.shape(got) != np.shape(want):
        return False
    return bool(np.allclose(np.asarray(got, float), np.asarray(want, float), rtol=0.02, atol=0.01))


def test_images_that_are_computed_together_give_the_same_rows(
    run: Callable[[], dict[str, ShardData]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = numbers(run())
    monkeypatch.setitem(embed.IMAGES_PER_BATCH, "cpu", 2)
    monkeypatch.setitem(generator.IMAGES_PER_BATCH, "cpu", 2)
    together = numbers(run())
    for stage, values in alone.items():
        assert all(_close(together[stage][name], value) for name, value in values.items()), stage


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(run: Callable[[], dict[str, ShardData]]) -> None:
    first, second = run(), run()
    for name, data in first.items():
        for left, right in zip(data.rows, second[name].rows, strict=True):
            if isinstance(left, np.ndarray):
                assert left.tobytes() == right.tobytes(), name
            else:
                assert left == right, name
