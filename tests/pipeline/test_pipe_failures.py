"""What the input breaks becomes a row with a reason; the rest goes on."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from store import FailedImageError, open_split

REASONS = {
    "broken": "no readable header",
    "empty": "empty",
    "truncated": "",
    "huge": "3600000000 pixels",
    "lonely": "no image file val/lonely.jpg",
}


def huge_png() -> bytes:
    """A valid header that declares 60000 x 60000 px."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def failing(empty: Any) -> Any:
    """Five val images that cannot be used, three that can, one of them without annotation; SAM and its pooling alone."""
    empty.add("val", "fine", 2)
    empty.add("val", "good", 4)
    for name in (*REASONS, "unasked"):
        empty.add("val", name, 6, regions=1)
    folder = empty.data / "val"
    (folder / "broken.jpg").write_bytes(b"this is no picture")
    (folder / "empty.jpg").write_bytes(b"")
    whole = (folder / "truncated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "huge.jpg").write_bytes(huge_png())
    (folder / "lonely.jpg").unlink()
    (folder / "unasked.json").unlink()
    empty.configure(
        splits=["val"], means={"tiny": {"train": ["val"]}}, embed__mask_encoders=["demo_sam"], embed__image_encoders=[]
    )
    return empty


def table(project: Any, column: str) -> list[dict[str, Any]]:
    files = sorted((project.store / "tiny" / column / "val").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_failed_images_are_rows_with_reasons_and_the_rest_goes_on(failing: Any) -> None:
    done = failing.run("index")
    assert done.code == 1
    assert "5 images failed, more than run.max_failures (0)" in done.err
    assert "failed: 1 x images: no image file val/lonely.jpg" in done.err
    rows = {row["image_id"]: row for row in table(failing, "images")}
    assert {name for name, row in rows.items() if row["status"] == "failed"} == set(REASONS)
    for name, word in REASONS.items():
        assert rows[name]["error"], name
        assert word in rows[name]["error"], rows[name]["error"]
        assert (rows[name]["height_px"], rows[name]["width_px"]) == (0, 0)
        assert str(failing.folder) not in rows[name]["error"]
    metrics = json.loads((failing.folder / "report/metrics/index/tiny/val.json").read_text())
    assert (metrics["failed_images"], metrics["absent"], metrics["images"]) == (5, 1, 8)
    done = failing.run("extract")
    assert done.code == 0, done.err  # what the index failed was counted there
    assert failing.run("normalize").code == 0
    assert failing.run("verify", "--deep", "--complete").code == 0
    split = open_split(failing.store, "tiny", "val")
    for name in ("fine", "unasked"):
        assert split[name]["mask_embeddings/sam/demo_sam"].shape == (min(16, len(split[name].masks)), 64)
    for name in REASONS:
        assert split[name].status == "failed"
        for column in (
            "mask_embeddings/sam/demo_sam",
            "centered/tiny/instance_embeddings/sam/demo_sam",
            "sam_features/demo_sam",
        ):
            with pytest.raises(FailedImageError, match="image: "):
                split[name][column]
    with pytest.raises(FailedImageError, match="no annotation: expected val/unasked.json"):
        split["unasked"]["centered/tiny/instance_embeddings/sam/demo_sam"]
    info = failing.run("info").out
    assert "failed: 1 x no image file val/lonely.jpg" in info


@pytest.mark.parametrize(("allowed", "code"), [(4, 1), (5, 0)])
def test_max_failures_decides_the_exit_code(failing: Any, allowed: int, code: int) -> None:
    assert failing.run("index", before=("--set", f"run.max_failures={allowed}")).code == code
    assert failing.run("index", before=("--set", f"run.max_failures={allowed}")).code == code  # also when up to date


def test_retry_failed_leaves_alone_what_failed_upstream(failing: Any) -> None:
    failing.run("index")
    failing.build("extract --stage masks")
    before = failing.times()
    failing.build("extract --stage masks --retry-failed")
    assert failing.recomputed(before) == set()


def test_features_that_are_not_finite_fail_their_image_alone(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.encoders.sam

    real = stages.encoders.sam.build

    def build(*arguments: Any) -> Any:
        model, calls = real(*arguments), iter(range(100))

        def spoilt(items: Any) -> Any:
            vectors = model(items)
            if next(calls) == 2:  # the proposals of the second image; its instances come in a call of their own
                vectors[0][:, 3] = 1e30  # finite, and too large for float16
            return vectors

        return spoilt

    monkeypatch.setattr(stages.encoders.sam, "build", build)
    tiny.configure(embed__mask_encoders=["demo_sam"], embed__image_encoders=[], run__report_dir=str(tiny.folder / "r"))
    tiny.build("index")
    done = tiny.run("extract", "--split", "val")
    assert done.code == 1
    assert "1 images failed, more than run.max_failures (0)" in done.err
    assert "1 x mask_embeddings/sam/demo_sam: non-finite features: values outside float16 from float32" in done.err
    assert tiny.commits()["mask_embeddings/sam/demo_sam/val#0"]["status"] == ["ok", "failed"]
    monkeypatch.undo()
    from pipeline.shard import _loaded

    _loaded.clear()
    assert tiny.run("extract", "--split", "val").code == 1  # it stays failed until somebody asks
    tiny.build("extract --split val --retry-failed")
    assert tiny.commits()["mask_embeddings/sam/demo_sam/val#0"]["status"] == ["ok", "ok"]


def test_limit_works_on_whole_shards_and_is_final(tiny: Any) -> None:
    tiny.configure(embed__mask_encoders=["demo_sam"], embed__image_encoders=[])
    tiny.build("index --split train", "extract --split train --limit 3")
    columns = tiny.info()["splits"]["tiny/train"]["columns"]
    for name in ("masks/sam", "mask_embeddings/sam/demo_sam", "match/sam/targets"):
        assert columns[name]["shards"].items() >= {"done": 2, "missing": 1, "stale": 0}.items(), name
    before = tiny.times()
    tiny.build("extract --split train --limit 4")
    assert tiny.recomputed(before) == set()
    tiny.build("extract --split train")
    assert {name.split("#")[1] for name in tiny.recomputed(before)} == {"2"}
    assert tiny.run("verify", "--complete", "--deep", "--split", "train").code == 4  # val is no part; the mean is


def test_encoder_leaves_the_others_alone(tiny: Any) -> None:
    tiny.build("index --split val", "extract --split val --encoder demo_sam")
    columns = tiny.info()["splits"]["tiny/val"]["columns"]
    assert columns["masks/sam"]["shards"]["done"] == columns["match/sam/targets"]["shards"]["done"] == 2
    assert columns["mask_embeddings/sam/demo_sam"]["shards"]["done"] == 2
    assert columns["mask_embeddings/sam/demo_alphaclip"]["shards"]["missing"] == 2
    assert columns["image_features/demo_clip"]["shards"]["missing"] == 2


def test_missing_or_other_weights_name_the_command(tiny: Any, tmp_path: Path) -> None:
    tiny.configure(
        proposers__sam__model="sam_vit_b", embed__mask_encoders=[], run__weights_dir=str(tmp_path / "weights")
    )
    tiny.build("index --split val")
    done = tiny.run("extract", "--split", "val", "--stage", "masks")
    assert done.code == 2
    assert "type: python cli.py weights sam_vit_b" in done.err
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/sam_vit_b_01ec64.pth").write_bytes(b"another file")
    done = tiny.run("extract", "--split", "val", "--stage", "masks")
    assert done.code == 2
    assert "expected ec2df627" in done.err
    tiny.configure(embed__mask_encoders=["alphaclip_vit_b16"])
    done = tiny.run("extract", "--split", "val", "--stage", "embed")
    assert done.code == 2
    assert "python cli.py weights alphaclip_vit_b16 --from FILE" in done.err


def test_what_there_is_can_be_looked_at_before_the_weights_are_there(tiny: Any, tmp_path: Path) -> None:
    tiny.configure(
        proposers__sam__model="sam_vit_b",
        embed__sam_features=[],
        embed__mask_encoders=["alphaclip_vit_b16"],
        run__weights_dir=str(tmp_path / "weights"),
    )
    tiny.build("index --split val")
    ways = ("python cli.py weights sam_vit_b", "python cli.py weights alphaclip_vit_b16 --from FILE")
    for command in (("info",), ("extract", "--split", "val", "--dry-run")):
        done = tiny.run(*command)
        assert done.code == 0, done.err
        for way in ways:
            assert way in done.out
    missing = {line.partition(":")[0] for line in tiny.info()["weights_missing"]}
    assert missing == {"sam_vit_b", "alphaclip_vit_b16", "clip_vit_b16"}
    assert tiny.run("verify", "--split", "val").code == 0


def test_a_stage_without_its_upstream_says_what_to_type(tiny: Any) -> None:
    done = tiny.run("extract", "--split", "val")
    first = done.err.splitlines()[0]
    assert (done.code, first) == (2, "error: split tiny/val is not indexed; run: python cli.py index --split val")
    tiny.build("index --split val")
    done = tiny.run("extract", "--split", "val", "--stage", "match")
    assert done.code == 2
    assert "masks/sam shard 0 is missing" in done.err
    assert "run: python cli.py extract --split val --stage masks" in done.err
    done = tiny.run("normalize")
    assert done.code == 2
    assert (
        "split tiny/train is not indexed: the data set tiny has the splits val; run: python cli.py index --split"
        in done.err
    )
    tiny.build("index", "extract --stage masks")
    done = tiny.run("normalize")
    assert done.code == 2
    assert "run: python cli.py extract --split train --stage embed" in done.err


def test_an_image_that_changed_after_the_index_is_not_segmented(tiny: Any) -> None:
    tiny.build("index --split val")
    tiny.add_image("val", "gnu", 51)
    done = tiny.run("extract", "--split", "val", "--stage", "masks")
    assert done.code == 2
    assert "gnu.png changed since it was indexed; run: python cli.py index --split val" in done.err
    (tiny.data / "val/gnu.png").unlink()
    done = tiny.run("extract", "--split", "val", "--stage", "masks")
    assert (done.code, "gnu.png changed since it was indexed" in done.err) == (2, True)


def test_a_missing_data_set_is_an_input_error_and_no_removal(finished: Any) -> None:
    content = finished.content()
    finished.data.rename(finished.folder / "unmounted")
    done = finished.run("index")
    assert done.code == 2
    assert "no folder 'train'" in done.err
    assert finished.content() == content
    done = finished.run("info")  # a store can be looked at where its pictures are not
    assert done.code == 0
    assert "source files not checked: no folder 'train'" in done.out
    assert "3/3 shards done" in done.out
    assert finished.run("verify", "--deep", "--complete").code == 0
    for name in ("targets", "instances"):
        shutil.rmtree(finished.store / f"tiny/match/sam/{name}/val")
    assert finished.run("verify", "--deep", "--complete").code == 4


def test_a_column_does_not_grow_by_other_numbers(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that changed without a raised VERSION: the next run embeds a stored image again before it adds to the column."""
    import stages.encoders.sam
    from pipeline.shard import _loaded

    tiny.configure(embed__mask_encoders=["demo_sam"], embed__image_encoders=[])
    tiny.build("index --split train", "extract --split train --limit 2")
    real, before = stages.encoders.sam.build, tiny.times()

    def mirrored(*given: Any) -> Any:
        model = real(*given)
        return lambda items: [vectors[:, ::-1] for vectors in model(items)]

    monkeypatch.setattr(stages.encoders.sam, "build", mirrored)
    _loaded.clear()
    done = tiny.run("extract", "--split", "train", "--stage", "masks")
    assert done.code == 0, done.err
    done = tiny.run("extract", "--split", "train", "--stage", "embed")
    assert done.code == 2
    assert "tiny/mask_embeddings/sam/demo_sam/train: image 1 embedded now is not what is stored (cosine" in done.err
    assert "raise VERSION" in done.err
    assert not [name for name in tiny.recomputed(before) if "embeddings" in name]
    monkeypatch.undo()
    _loaded.clear()
    tiny.build("extract --split train --stage embed")


def test_a_disk_that_may_be_too_small_is_said_beforehand(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage(tiny.folder)._replace(free=100)
    tiny.configure(embed__mask_encoders=["demo_sam"], embed__image_encoders=[])
    tiny.build("index --split val")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    done = tiny.run("extract", "--split", "val")
    assert done.code == 0
    assert "has 0.0 GB left, these shards may take up to" in done.err
