"""Which columns every parameter makes stale: a table that has a line for each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.graph import specs
from stages.datasets import _MODELS
from stages.params import MeanParams, Sections
from stages.proposers.params import SamParams
from store.storage.objects import write_json

INDEX = ("images", "instances", "targets")
MASKS = ("masks/sam",)
FEATURES = ("sam_features/demo_sam",)
ENCODERS = ("demo_alphaclip", "demo_sam")
MASK_VECTORS = tuple(f"mask_embeddings/sam/{name}" for name in ENCODERS)
INSTANCE_VECTORS = tuple(f"instance_embeddings/{name}" for name in ENCODERS)
CLIP = ("image_features/demo_clip",)
MATCH = ("match/sam/targets", "match/sam/instances")
CENTERED_MASKS = tuple(f"centered/tiny/{name}" for name in MASK_VECTORS)
CENTERED_INSTANCES = tuple(f"centered/tiny/instance_embeddings/sam/{name}" for name in ENCODERS)
CENTERED = CENTERED_MASKS + CENTERED_INSTANCES
VECTORS = MASK_VECTORS + INSTANCE_VECTORS
ARRAYS = FEATURES + VECTORS + CLIP + CENTERED
OF_SAM = tuple(name for name in (*VECTORS, *CENTERED) if name.endswith("demo_sam"))
"""Pooled from ``FEATURES``."""
BEHIND_MASKS = (*MASKS, *MASK_VECTORS, *MATCH, *CENTERED)
EVERYTHING = (*INDEX, *MASKS, *MATCH, *ARRAYS)

STALE: dict[str, tuple[str, tuple[str, ...]]] = {
    "shard_images=3": ("shard_images: 2 -> 3", EVERYTHING),
    "data.tiny.root={copy}": ("", ()),
    "data.tiny.max_pixels=50000": (" -> 50000", EVERYTHING),
    "embed.max_instances=32": ("limit: 16 -> 32", (*INSTANCE_VECTORS, *CENTERED)),
    "embed.max_masks=32": ("limit: 16 -> 32", (*MASK_VECTORS, *CENTERED)),
    "proposers.sam.max_side_px=40": ("max_side_px: 0 -> 40", BEHIND_MASKS),
    "embed.sam_features=[]": ("sam_features/demo_sam changed", OF_SAM),
    "embed.dense=[int8]": ("sam_features/int8/demo_sam", OF_SAM),
    "proposers.sam.precision=bfloat16": (
        "precision: float32 -> bfloat16",
        BEHIND_MASKS,
    ),
    "proposers.sam.points_per_side=4": ("points_per_side: 2 -> 4", BEHIND_MASKS),
    "proposers.sam.pred_iou_thresh=0.5": ("pred_iou_thresh: 0.0 -> 0.5", BEHIND_MASKS),
    "proposers.sam.stability_score_thresh=0.5": ("stability_score_thresh: 0.0 -> 0.5", BEHIND_MASKS),
    "proposers.sam.stability_score_offset=0.5": ("stability_score_offset: 1.0 -> 0.5", BEHIND_MASKS),
    "proposers.sam.box_nms_thresh=0.5": ("box_nms_thresh: 1.0 -> 0.5", BEHIND_MASKS),
    "proposers.sam.crop_n_layers=1": ("crop_n_layers: 0 -> 1", BEHIND_MASKS),
    "proposers.sam.crop_nms_thresh=0.5": ("crop_nms_thresh: 0.7 -> 0.5", BEHIND_MASKS),
    "proposers.sam.crop_overlap_ratio=0.5": ("crop_overlap_ratio: 0.34", BEHIND_MASKS),
    "proposers.sam.crop_n_points_downscale_factor=2": ("crop_n_points_downscale_factor: 1 -> 2", BEHIND_MASKS),
    "proposers.sam.min_mask_region_area=9": ("min_mask_region_area: 0 -> 9", BEHIND_MASKS),
    "embed.mask_encoders=[demo_sam]": ("", ()),
    "embed.image_encoders=[]": ("", ()),
    "embed.precision=bfloat16": ("precision: float32 -> bfloat16", (*FEATURES, *VECTORS, *CLIP, *CENTERED)),
    "means.tiny.train=[train, val]": ("means/tiny/sam/demo_sam changed", CENTERED),
    "train.mean=tiny": ("", ()),
    "report.similarity_vectors=9": ("", ()),
    "run.device=auto": ("", ()),
    "run.executor=dask": ("", ()),
    "run.scheduler=tcp://127.0.0.1:1": ("", ()),
    "run.workers=3": ("", ()),
    "run.worker_timeout_s=3": ("", ()),
    "run.threads=2": ("", ()),
    "run.points_per_batch=2": ("", ()),
    "run.masks_per_batch=2": ("", ()),
    "run.images_per_batch=2": ("", ()),
    "run.prefetch=0": ("", ()),
    "run.weights_dir=elsewhere": ("", ()),
    "run.train_dir=elsewhere": ("", ()),
    "run.report_dir=elsewhere": ("", ()),
    "run.cache_dir=/dev/null/nowhere": ("", ()),
    "run.max_failures=3": ("", ()),
}
SPECIAL = {
    "store",  # another store: nothing is stale there, everything is missing
    "data.tiny.images",  # whose pictures: there is one data set
    "data.tiny.splits",
    "data.tiny.format",  # one choice
    "data.tiny.encoding",  # in test_pipe_data: it stands in no params file, and then decides nothing
    "embed.imported",  # each entry adds columns of its own: in test_pipe_import
    "proposers.sam.model",  # in the weights' table: another model has other weights
    "proposers.sam.kind",  # another kind has other options
    "train",  # decides no column, nor does what is asked of it
    "evaluate",
    "runs",
    "prices",  # decide nothing but what extract --plan says
    "questions",  # what is asked of models: a data set's files say what came out
}
EACH: dict[str, tuple[str, Any]] = {
    "data": ("data.tiny", _MODELS["reasonseg"]),
    "proposers": ("proposers.sam", SamParams),
    "means": ("means.tiny", MeanParams),
}
"""Sections of entries by name -> the only entry here, and its fields."""


def stale_columns(info: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Split -> stale column -> the reasons."""
    return {
        split: {name: column["why"] for name, column in entry["columns"].items() if column["shards"]["stale"]}
        for split, entry in info["splits"].items()
    }


def test_the_table_has_a_line_for_every_parameter() -> None:
    sections = {
        name: field for name, field in Sections.model_fields.items() if name != "holder"
    }  # another entry of data
    names = set(Settings.model_fields) - set(sections)
    for section, field in sections.items():
        own = EACH.get(section, (section, field.annotation))
        names |= {f"{own[0]}.{name}" for name in own[1].model_fields}
    assert {line.partition("=")[0] for line in STALE} - {"train.mean"} | SPECIAL == names


@pytest.mark.parametrize("change", STALE)
def test_a_parameter_makes_just_what_depends_on_it_stale(finished_once: Any, change: str, tmp_path: Path) -> None:
    word, columns = STALE[change]
    expected = set(columns)
    if change.startswith("data.tiny.root"):
        (tmp_path / "copy").symlink_to(finished_once.data)
        change = change.format(copy=tmp_path / "copy")
    options = ["--set", change]
    found = stale_columns(finished_once.info(*options))
    for split in ("tiny/train", "tiny/val"):
        assert set(found[split]) == expected
    reasons = {
        reason for column in found["tiny/train"].values() for reasons in column for reason in reasons.split("; ")
    }
    assert not expected or any(word in reason for reason in reasons), reasons


@pytest.mark.parametrize(
    ("weights", "columns"),
    [
        ("demo_sam", (*BEHIND_MASKS, *FEATURES, "instance_embeddings/demo_sam")),
        ("demo_alphaclip", tuple(name for name in (*VECTORS, *CENTERED) if name.endswith("demo_alphaclip"))),
        ("demo_clip", CLIP),
        ("demo_dinov2", ()),
    ],
)
def test_other_weights_make_just_their_columns_stale(
    finished_once: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: str, columns: tuple[str, ...]
) -> None:
    lock = Settings.weights_lock.fget  # type: ignore[attr-defined]
    digests = json.loads(lock(None).read_text())
    (tmp_path / "weights.lock").write_text(json.dumps(digests | {weights: "5" * 64}))
    monkeypatch.setattr(Settings, "weights_lock", property(lambda self: tmp_path / "weights.lock"))
    found = stale_columns(finished_once.info())
    assert set(found["tiny/train"]) == set(found["tiny/val"]) == set(columns)
    for name, reasons in found["tiny/val"].items():
        if not name.startswith(("match", "centered")):
            words = f"weights.{weights}: {digests[weights][:12]}... -> 555555555555..."
            assert any(word in reasons[0] for word in (words, "masks/sam changed"))


def test_a_changed_parameter_is_computed_column_by_column(finished: Any) -> None:
    before = finished.times()
    finished.configure(embed__max_masks=32)
    assert finished.run("extract", "--split", "val", "--replace").code == 0
    again = {name.split("#")[0] for name in finished.recomputed(before)}
    assert again == {f"{name}/val" for name in MASK_VECTORS}
    done = finished.run("normalize")  # the train split is not done: no mean of a mixture
    assert done.code == 2
    assert "split tiny/train: mask_embeddings/sam/demo_alphaclip shard 0 is stale (stage embed) and 5 more" in done.err
    assert "run: python cli.py extract --split train --stage embed --replace" in done.err
    finished.build("extract --replace", "normalize")
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_a_changed_version_is_stale(finished_once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.match

    monkeypatch.setattr(stages.match, "VERSION", 2)
    specs.cache_clear()
    try:
        found = stale_columns(finished_once.info())["tiny/val"]
    finally:
        specs.cache_clear()
    assert {name: reasons[0].removeprefix("stale: ") for name, reasons in found.items()} == dict.fromkeys(
        MATCH, "version: 1 -> 2"
    )


def test_a_mean_of_another_fingerprint_is_refused(finished: Any) -> None:
    from pipeline.config import InputError
    from pipeline.params_file import load_settings
    from pipeline.trained import open_mean

    column = "means/tiny/sam/demo_sam"
    open_mean(load_settings(finished.params), column)
    with pytest.raises(InputError, match=r"means/tiny/sam/demo_sam is the mean of other embeddings .*cli.py normalize"):
        open_mean(load_settings(finished.params, ["embed.max_masks=32"]), column)
    path = finished.store / "means/tiny/sam/demo_sam/column.json"
    value = json.loads(path.read_text())
    value.pop("checksum")
    write_json(path, value)  # as it was: the refusal above is not for damage
    assert finished.run("verify", "--complete").code == 0
