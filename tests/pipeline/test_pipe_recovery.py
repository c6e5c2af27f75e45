"""Ways back: parameters changed and changed back, records lost, repair of just what is damaged, links, other columns."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.graph import stage_specs
from pipeline.params_file import load_settings
from pipeline.shard import ShardTask, run_shard
from pipeline.upstream import known_sources
from stages.names import SplitRef
from store import IncompleteColumnError, open_split
from store.format.column import fingerprint, load_column
from store.write.writer import begin_column


def whole(project: Any) -> bool:
    return bool(project.run("verify", "--deep", "--complete").code == 0)


def test_parameters_changed_and_changed_back_before_a_shard_was_made(finished: Any) -> None:
    before = finished.content()
    settings = load_settings(finished.params, ["proposers.sam.pred_iou_thresh=0.5"])
    spec = stage_specs(settings, "tiny", "masks")[0]
    folder = finished.store / "tiny/masks/sam/val"
    from pipeline.plan import expected_meta

    begin_column(folder, expected_meta(settings, "tiny", spec, 3))
    with pytest.raises(IncompleteColumnError, match="other parameters"):
        open_split(finished.store, "tiny", "val")
    assert not whole(finished)
    assert "column.json" in str(finished.info()["splits"]["tiny/val"]["columns"]["masks/sam"]["why"])
    finished.build("extract --split val --stage masks")
    assert whole(finished)
    assert finished.content() == before


def test_new_masks_make_everything_behind_them_unreadable(finished: Any) -> None:
    """Centred vectors read mask_embeddings, not masks: row k would belong to another mask."""
    finished.configure(proposers__sam__points_per_side=3)
    finished.build("extract --split val --stage masks --replace")
    columns = ["masks", "centered/tiny/mask_embeddings/sam/demo_sam"]
    with pytest.raises(
        IncompleteColumnError,
        match="does not fit what it was computed from: masks/sam changed since",
    ):
        open_split(finished.store, "tiny", "val", columns=columns)
    open_split(finished.store, "tiny", "val", columns=["masks", "image_features/demo_clip"])


@pytest.mark.parametrize("name", ["column.json", "zarr.json"])
@pytest.mark.parametrize("column", ["images/val", "mask_embeddings/sam/demo_sam/val"])
def test_a_lost_record_costs_no_shard(finished: Any, column: str, name: str) -> None:
    path = finished.store / "tiny" / column / name
    if not path.exists():
        pytest.skip("a table has no zarr.json")
    settings = load_settings(finished.params)
    sources = known_sources(settings, SplitRef("tiny", "val"))
    before = finished.times()
    path.unlink()
    assert known_sources(settings, SplitRef("tiny", "val")) == sources
    finished.build("index", "extract", "normalize")
    assert finished.recomputed(before) == set()
    assert whole(finished)
    assert known_sources(settings, SplitRef("tiny", "val")) == sources


def test_an_order_that_cannot_be_known_again_is_never_guessed(finished: Any) -> None:
    folder = finished.store / "tiny/images/train"
    (folder / "column.json").unlink()
    (folder / "00001.parquet").unlink()
    done = finished.run("index", "--split", "train")
    assert done.code == 4
    assert "do not hold every image: found 3 of 5" in done.err


def test_repair_computes_just_the_damaged_shards(finished: Any) -> None:
    before, content = finished.times(), finished.content()
    shard = finished.store / "tiny/masks/sam/train/00001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    vectors = finished.store / "tiny/centered/tiny/mask_embeddings/sam/demo_sam/val/c/0/0/0"
    vectors.write_bytes(b"")
    mean = finished.store / "means/tiny/sam/demo_sam/c/0/0"
    mean.write_bytes(b"{}")
    done = finished.run("verify", "--deep", "--repair")
    assert done.code == 0, done.out
    expected = {"masks/sam/train#1", "centered/tiny/mask_embeddings/sam/demo_sam/val#0", "means/tiny/sam/demo_sam#0"}
    assert finished.recomputed(before) == expected
    assert finished.content() == content
    assert whole(finished)


def test_repair_computes_what_damaged_shards_are_computed_from(finished: Any) -> None:
    """As after a repair that was killed: shards are lost between the damage, and in front of it. No command waits for another."""
    content = finished.content()
    for place, number in (("tiny/mask_embeddings/sam/demo_sam/val", 0), ("tiny/mask_embeddings/sam/demo_sam/train", 1)):
        (finished.store / place / f"c/{number}/0/0").unlink()
    shutil.rmtree(finished.store / "means/tiny/sam/demo_sam")
    damaged = (
        "masks/sam/val/00000.parquet",
        "masks/sam/train/00001.parquet",
        "centered/tiny/mask_embeddings/sam/demo_sam/train/c/0/0/0",
    )
    for name in damaged:
        path = finished.store / "tiny" / name
        path.write_bytes(bytes(len(path.read_bytes())))
    vectors = finished.store / "tiny/centered/tiny/mask_embeddings/sam/demo_sam/val/c/0/0/0"
    vectors.write_bytes(bytes(len(vectors.read_bytes())))
    done = finished.run("verify", "--repair", "--complete")
    assert done.code == 0, done.out + done.err
    assert finished.content() == content


def test_repair_does_not_start_what_was_never_computed(tiny: Any) -> None:
    tiny.build("index", "extract --split train --stage masks --limit 2")
    (tiny.store / "tiny/masks/sam/train/00000.parquet").write_bytes(b"")
    assert tiny.run("verify", "--repair").code == 0
    assert {name for name in tiny.commits() if "masks" in name} == {"masks/sam/train#0"}


def test_links_in_a_data_set_are_followed(finished: Any, tmp_path: Path) -> None:
    """Files and folders of a shared, read-only data set; a link that leads nowhere, or to itself, is a failed row."""
    shared = tmp_path / "shared"
    (finished.data / "val").rename(shared)
    before = finished.content()
    (finished.data / "val").symlink_to(shared)
    shutil.copy(shared / "fox.jpg", tmp_path / "blob")
    (shared / "zebra.jpg").symlink_to(tmp_path / "blob")
    finished.annotate("val", "zebra", 3)
    done = finished.run("index", "--split", "val")
    assert done.code == 0, done.err
    finished.build("extract", "normalize", "verify --complete", "report --split val")
    assert finished.content()["masks/sam/val#0"] == before["masks/sam/val#0"]  # where the bytes lie makes no difference
    split = open_split(finished.store, "tiny", "val", images_root=finished.data)
    np.testing.assert_array_equal(split["zebra"].image(), split["fox"].image())
    (tmp_path / "blob").unlink()
    (shared / "ape.jpg").symlink_to("ape.jpg")
    finished.annotate("val", "ape", 4)
    done = finished.run("index", "--split", "val")
    assert done.code == 1
    for name in ("zebra", "ape"):
        assert f"images: a link that leads to no file, or to itself: val/{name}.jpg" in done.err


def test_a_column_that_the_params_no_longer_name_is_shown_and_blocks_nobody(finished: Any) -> None:
    finished.configure(embed__image_encoders=[])
    finished.add("val", "yak", 5)
    finished.build("index", "extract --split val", "normalize")
    assert finished.info()["splits"]["tiny/val"]["not_in_params"] == ["image_features/demo_clip"]
    assert "not asked for by the params" in finished.run("info").out
    assert "image_features/demo_clip" not in open_split(finished.store, "tiny", "val").columns
    with pytest.raises(IncompleteColumnError, match=r"leave the column out with columns=\[...\]"):
        open_split(finished.store, "tiny", "val", columns=["image_features/demo_clip"])
    assert len(open_split(finished.store, "tiny", "val", columns=["masks", "mask_embeddings/sam/demo_sam"])) == 4


def test_threads_of_one_worker_do_not_share_a_model_at_work(finished: Any, tmp_path: Path) -> None:
    """A Dask worker may have several threads: the masks must be those of one thread."""
    want = {name: sha for name, sha in finished.content().items() if name.startswith("masks/sam/train#")}
    shutil.rmtree(finished.store / "tiny/masks/sam/train")
    settings = load_settings(finished.params)
    spec = stage_specs(settings, "tiny", "masks")[0]
    from pipeline.plan import expected_meta

    begin_column(finished.store / "tiny/masks/sam/train", expected_meta(settings, "tiny", spec, 5))
    tasks = [
        ShardTask(
            settings.model_dump_json(), "masks", SplitRef("tiny", "train"), shard, count, ("masks/sam",), ("masks/sam",)
        )
        for shard, count in enumerate((2, 2, 1))
    ]
    threads = [threading.Thread(target=run_shard, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = {name: sha for name, sha in finished.content().items() if name.startswith("masks/sam/train#")}
    assert got == want


def test_the_reader_refuses_questions_of_a_broken_annotation(finished: Any) -> None:
    from store import FailedImageError

    (finished.data / "val/fox.json").write_text("{")
    assert finished.run("index", "--split", "val").code == 1
    finished.run("extract", "--split", "val")
    record = open_split(finished.store, "tiny", "val", columns=["targets", "instances", "masks"])["fox"]
    for read in ("targets", "instances"):
        with pytest.raises(FailedImageError, match=r"val|fox|JSON"):
            getattr(record, read)
    assert len(record.masks) > 0


def test_pixels_are_those_that_were_indexed(finished: Any) -> None:
    from stages.images import read_image
    from store import StoreError

    split = open_split(finished.store, "tiny", "val", images_root=finished.data, columns=["masks"])
    record = split["gnu"]
    np.testing.assert_array_equal(record.image(), read_image(finished.data / record.path, 10**6))
    finished.add_image("val", "gnu", 11, size=(48, 64))
    with pytest.raises(StoreError, match="not the file that was indexed"):
        record.image()


def test_column_json_says_what_was_asked_for(finished_once: Any) -> None:
    meta = load_column(finished_once.store / "tiny/masks/sam/val")
    assert meta is not None
    assert meta.fingerprint == fingerprint(meta.identity)
    assert meta.identity["params"]["points_per_side"] == 2


def test_a_dry_run_counts_what_follows_from_what_is_stale(finished: Any) -> None:
    finished.configure(proposers__sam__points_per_side=3)
    before = finished.times()
    plan = finished.run("extract", "--split", "val", "--dry-run").out
    for name in ("masks/sam", "mask_embeddings/sam/demo_sam", "match/sam/targets"):
        assert f"would compute 2 of 2 shards of {name}\n" in plan
    assert "instance_embeddings" not in plan
    assert finished.recomputed(before) == set()


@pytest.mark.parametrize("kind", ["mask_embeddings/sam", "instance_embeddings"])
def test_a_column_computed_alone_has_the_same_bytes(finished: Any, kind: str) -> None:
    """A kill between two columns of a shard leaves one of them to be computed without the other."""
    before = finished.content()
    for encoder in ("demo_alphaclip", "demo_sam"):
        shutil.rmtree(finished.store / f"tiny/{kind}/{encoder}/train/c")
    finished.build("extract --split train")
    assert finished.content() == before
