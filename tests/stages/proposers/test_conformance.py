"""What every proposer keeps to, whatever it is made of: fields, frame, order, determinism, images that fail, nothing found."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages import masks
from stages.base import ShardInput
from stages.imported.archive import MASKS as MASKS_KIND
from stages.imported.archive import new_archive
from stages.imported.records import checked
from stages.params import Sections
from stages.proposers import PROPOSERS, identity, proposer_params
from stages.proposers.sam import generator
from stages.weights import imported_name
from store import rle
from store.format.schema import MASKS
from store.write.writer import ShardData

SIZES = [(40, 60), (64, 48), (30, 31)]
ARCHIVES = Path(tempfile.mkdtemp(prefix="conformance-"))
atexit.register(shutil.rmtree, ARCHIVES)


def sha256_of(number: int) -> str:
    """What stands for the digest of a picture's file."""
    return f"{number:064x}"


def imported(masks_of: Callable[[int, int], list[np.ndarray]]) -> dict[str, Any]:
    """Options of a proposer with an archive of these masks for each picture."""
    with new_archive(ARCHIVES) as writer:
        for number, size in enumerate(SIZES):
            found = [{"segmentation": {"counts": rle.encode(mask)}} for mask in masks_of(*size)]
            writer.add_masks(sha256_of(number), checked(found, size, None, False))
        return {"kind": "imported", "sha256": writer.finish({"kind": MASKS_KIND}, {})}


OPTIONS: dict[str, dict[str, Any]] = {
    "imported": imported(lambda height, width: [np.tri(height, width, 2, bool), np.ones((height, width), bool)]),
    "sam": {"model": "demo_sam", "points_per_side": 3, "pred_iou_thresh": 0, "stability_score_thresh": 0},
    "grid": {"kind": "grid", "cells_per_side": [1, 3]},
}
"""Kind -> options that find masks in any picture."""
NOTHING: dict[str, dict[str, Any]] = {
    "sam": {"pred_iou_thresh": 1.0, "points_per_side": 1},
    "grid": {"min_area": 10**9},
    "imported": imported(lambda height, width: [np.zeros((height, width), bool)]),
}
"""Kind -> options that find none."""
WEIGHTS = {"demo_sam": ROOT / "demo/models/demo_sam.safetensors"}
WEIGHTS |= {imported_name(path.stem): path for path in ARCHIVES.glob("*.zip")}


def settings(proposers: dict[str, Any], *changes: str) -> Sections:
    given = [f"proposers.{name}={value}" for name, value in proposers.items()]
    return load_settings(
        ROOT / "params.yaml", ["run.device=cpu", "proposers={}", "train.proposer=null", *given, *changes]
    ).of("demo")


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    found = []
    for height, width in SIZES:
        image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        image[height // 4 : height // 2, width // 4 : width // 2] = 230
        found.append(image)
    return found


def shard_of(failed: tuple[int, ...] = ()) -> ShardInput:
    status = ["failed" if k in failed else "ok" for k in range(len(SIZES))]

    def pixels() -> Iterator[Any]:
        return (None if state != "ok" else image for state, image in zip(status, images(), strict=True))

    def nothing(*_: Any) -> Any:
        raise AssertionError("a proposer reads pixels alone")

    rows = [
        {"status": state, "error": None if state == "ok" else "truncated", "sha256": sha256_of(number)}
        for number, state in enumerate(status)
    ]
    return ShardInput(range(len(SIZES)), lambda table: rows, nothing, nothing, pixels, lambda images: None)


def propose(params: Sections, failed: tuple[int, ...] = ()) -> dict[str, ShardData]:
    torch.manual_seed(0)
    names = [spec.name for spec in masks.columns(params)]
    return masks.start(params, names, WEIGHTS, ROOT)(shard_of(failed))


def test_there_are_options_for_every_kind() -> None:
    assert set(OPTIONS) == set(NOTHING) == set(PROPOSERS)


@pytest.fixture(scope="module", params=PROPOSERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(kind: str) -> ShardData:
    """What a proposer of the kind finds in the images, as the stage runs it."""
    return propose(settings({"one": OPTIONS[kind]}, "embed.sam_features=[]"))["masks/one"]


class TestEveryProposer:
    """What each of them promises."""

    def test_fields_are_those_of_the_table_and_in_the_frame_of_the_image(self, kind: str, found: ShardData) -> None:
        assert found.status == ["ok"] * len(SIZES)
        for row, count, (height, width) in zip(found.rows, found.counts, SIZES, strict=True):
            assert set(row) == set(MASKS.names)
            assert count == len(row["area"]) > 0
            assert {len(row[name]) for name in masks.RECORD_FIELDS} == {count}
            for k, counts in enumerate(row["segmentation"]):
                mask = rle.decode(counts, height, width)
                assert mask.any(), "a mask without a pixel is no proposal"
                assert coco.area({"size": [height, width], "counts": counts}) == row["area"][k] == mask.sum()
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
                left, top, wide, tall = row["bbox"][k]  # SAM's of its low resolution may be a pixel off
                assert np.abs(np.array(box) - [left, top, wide, tall]).max() <= (4 if kind == "sam" else 0)
                x, y = row["point_coords"][k]
                assert 0 <= x <= width
                assert 0 <= y <= height
                assert row["crop_box"][k] == [0, 0, width, height]
                assert row["predicted_iou"][k] >= 0
                assert 0 <= row["stability_score"][k] <= 1

    def test_the_largest_come_first(self, kind: str, found: ShardData) -> None:
        for row in found.rows:
            assert row["area"] == sorted(row["area"], reverse=True)
            assert len(set(row["area"])) > 1, "the test needs masks of different sizes"

    def test_again_alone_and_in_other_batches_the_masks_are_the_same(
        self, kind: str, found: ShardData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = {f"other_{name}": options for name, options in OPTIONS.items()}
        again = propose(settings({**others, "one": OPTIONS[kind]}))["masks/one"]
        assert again.rows == found.rows
        monkeypatch.setitem(generator.IMAGES_PER_BATCH, "cpu", 2)
        batched = propose(settings({"one": OPTIONS[kind]}, "embed.sam_features=[]"))["masks/one"]
        assert batched.counts == found.counts
        assert [row["segmentation"] for row in batched.rows] == [row["segmentation"] for row in found.rows]

    def test_a_failed_image_has_no_masks_and_leaves_the_others_as_they_are(self, kind: str, found: ShardData) -> None:
        data = propose(settings({"one": OPTIONS[kind]}, "embed.sam_features=[]"), failed=(1,))["masks/one"]
        assert data.status == ["ok", "failed", "ok"]
        assert data.errors == {1: "image: truncated"}
        assert data.rows[1]["segmentation"] == []
        assert [data.rows[0], data.rows[2]] == [found.rows[0], found.rows[2]]

    def test_nothing_found_is_no_failure(self, kind: str) -> None:
        data = propose(settings({"one": OPTIONS[kind] | NOTHING[kind]}, "embed.sam_features=[]"))["masks/one"]
        assert data.status == ["ok"] * len(SIZES)
        assert data.counts == [0] * len(SIZES)
        assert all(row[name] == [] for row in data.rows for name in masks.RECORD_FIELDS)

    def test_every_option_decides_the_identity(self, kind: str) -> None:
        params = proposer_params(OPTIONS[kind])
        told = identity(params)
        assert set(told) == {*type(params).model_fields, "kind_version"}
        assert identity(proposer_params(OPTIONS[kind] | NOTHING[kind])) != told


def test_two_proposers_of_one_sam_share_weights_and_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.proposers.sam import encoder, proposals

    loaded: list[str] = []
    encoded: list[int] = []

    def counting(count: Callable[[], None], whole: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: (count(), whole(*args))[1]

    monkeypatch.setattr(proposals, "build_sam", counting(lambda: loaded.append("sam"), proposals.build_sam))
    forward = encoder.FastEncoder.__call__
    monkeypatch.setattr(encoder.FastEncoder, "__call__", counting(lambda: encoded.append(1), forward))
    sparse = OPTIONS["sam"] | {"points_per_side": 2}
    cropped = OPTIONS["sam"] | {"points_per_side": 2, "crop_n_layers": 1}
    reduced = OPTIONS["sam"] | {"points_per_side": 2, "max_side_px": 50}
    propose(settings({"dense": OPTIONS["sam"], "sparse": sparse}, "embed.sam_features=[demo_sam]"))
    assert (len(loaded), len(encoded)) == (1, len(SIZES)), "once per image, for both proposers and the features"
    encoded.clear()
    found = propose(settings({"cropped": cropped, "reduced": reduced}, "embed.sam_features=[demo_sam]"))
    large = sum(max(size) > 50 for size in SIZES)
    assert len(encoded) == len(SIZES) + 4 * len(SIZES) + large, "whole images, their crops, and what is reduced"
    features = propose(settings({}, "embed.sam_features=[demo_sam]"))
    for stored, alone in zip(found["sam_features/demo_sam"].rows, features["sam_features/demo_sam"].rows, strict=True):
        np.testing.assert_array_equal(stored, alone)


def test_features_depend_on_model_and_precision_alone() -> None:
    def features(params: Sections) -> Any:
        (spec,) = (spec for spec in masks.columns(params) if spec.name == "sam_features/demo_sam")
        return spec

    plain = features(settings({}))
    assert plain.params == {"model": "demo_sam", "precision": "float32"}
    assert features(settings({"sam": OPTIONS["sam"] | {"max_side_px": 64}})) == plain
    assert features(settings({}, "embed.precision=bfloat16")) != plain


def test_a_section_without_a_kind_is_sams_and_has_the_generators_defaults() -> None:
    import inspect

    from segment_anything import SamAutomaticMaskGenerator

    params = proposer_params({"model": "sam_vit_h"}).model_dump()
    assert params["kind"] == "sam"
    official = inspect.signature(SamAutomaticMaskGenerator).parameters
    own = {name: official[name].default for name in params.keys() & official.keys() - {"model"}}
    assert len(own) == 10
    assert {name: params[name] for name in own} == own
