"""From images to shards through the command line; every file is read with stock zarr and pyarrow and recomputed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image
from pycocotools import mask as coco

from store import open_split
from store.format.names import without_proposer
from store.format.schema import TABLES
from store.format.shard import read_commit

PHOTOS = Path(__file__).resolve().parents[1] / "data/photos"
ALL = ["demo_alphaclip", "demo_dinov2", "demo_sam"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, finished_once: Any, drawn_figures: None) -> Any:
    """The real photographs with every demo encoder; finished, its heat maps drawn."""
    project = type(finished_once)(tmp_path_factory.mktemp("photos"))
    shutil.copytree(PHOTOS, project.data)
    project.configure(embed__mask_encoders=ALL, shard_images=3)
    project.build()
    return project


@pytest.fixture(params=["tiny", "photos"])
def built(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("finished_once" if request.param == "tiny" else "photos")


def test_it_verifies_and_info_says_done(built: Any) -> None:
    done = built.run("verify", "--deep", "--complete")
    assert done.code == 0, done.out
    assert "0 missing, 0 stale" in done.out
    info = built.info()
    for entry in info["splits"].values():
        for name, column in entry["columns"].items():
            assert column["shards"]["done"] == -(-entry["images"] // built.values["shard_images"]), name
            assert (column["shards"]["missing"], column["shards"]["stale"], column["why"]) == (0, 0, [])
    assert set(info["means"]) == {f"means/tiny/sam/{encoder}" for encoder in built.values["embed"]["mask_encoders"]}
    assert all(column["shards"]["done"] == 1 and not column["why"] for column in info["means"].values())


def test_the_stock_readers_read_every_file(built: Any) -> None:
    files = {path for path in built.store.rglob("*") if path.is_file()}
    seen: set[Path] = set()
    for path in built.store.rglob("zarr.json"):
        array = zarr.open_array(path.parent, mode="r")
        assert np.isfinite(array[:]).any() or "embeddings" in str(path), path
        seen |= {path, *(file for file in (path.parent / "c").rglob("*") if file.is_file())}
    for path in built.store.rglob("*.parquet"):
        table = pq.read_table(path, page_checksum_verification=True)
        column = path.parent.relative_to(built.store / "tiny").parent.as_posix()
        assert table.schema.equals(TABLES[without_proposer(column)])
        assert pq.ParquetFile(path).metadata.num_row_groups == max(1, -(-table.num_rows // 16))
        seen.add(path)
    for path in (*built.store.rglob("column.json"), *built.store.rglob("summary.json")):
        assert "checksum" in json.loads(path.read_text())
        seen.add(path)
    assert {path for path in files if path.parent.name != "log"} == seen


def vector_columns(encoder: str) -> dict[str, str]:
    """Column of vectors -> table of what they are of."""
    return {f"mask_embeddings/sam/{encoder}": "masks", f"instance_embeddings/{encoder}": "instances"}


def test_padding_is_nan_and_centred_is_embedding_minus_mean(built: Any) -> None:
    for split in ("train", "val"):
        opened = open_split(built.store, "tiny", split)
        for encoder in built.values["embed"]["mask_encoders"]:
            mean = zarr.open_array(built.store / "means/tiny/sam" / encoder, mode="r")[0]
            assert mean.dtype == np.float64
            for column, table in vector_columns(encoder).items():
                moved_to = f"centered/tiny/{column.partition('/')[0]}/sam/{encoder}"
                raw, centered = (
                    zarr.open_array(built.store / "tiny" / name / split, mode="r")[:] for name in (column, moved_to)
                )
                for record, vectors, moved in zip(opened, raw, centered, strict=True):
                    count = min(len(getattr(record, table)), raw.shape[1])
                    assert np.isfinite(vectors[:count]).all()
                    assert np.isnan(vectors[count:]).all()
                    expected = (vectors.astype(np.float64) - mean).astype(np.float16)
                    np.testing.assert_array_equal(moved, expected)  # padding stays NaN
                    np.testing.assert_array_equal(record[column], vectors[:count])


def test_the_mean_is_the_plain_mean_over_every_train_vector(built: Any) -> None:
    for encoder in built.values["embed"]["mask_encoders"]:
        columns = vector_columns(encoder)
        rows = [zarr.open_array(built.store / "tiny" / column / "train", mode="r")[:] for column in columns]
        vectors = np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows]).astype(np.float64)
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        mean = zarr.open_array(built.store / "means/tiny/sam" / encoder, mode="r")[0]
        np.testing.assert_allclose(mean, vectors.mean(axis=0), rtol=1e-12, atol=1e-12)
        commit = read_commit(built.store / "means/tiny/sam" / encoder, 0)
        assert commit is not None
        assert commit.extra == {"count": len(vectors), "norm": pytest.approx(np.linalg.norm(mean))}
    report = json.loads((built.folder / "report/tiny/normalize.json").read_text())
    assert set(report["tiny"]) == {f"sam/{encoder}" for encoder in built.values["embed"]["mask_encoders"]}
    for split in ("train", "val"):
        assert (built.folder / f"report/tiny/similarity/tiny/{split}-sam-demo_sam.png").is_file()


def test_heat_maps_are_drawn(photos: Any) -> None:
    with Image.open(photos.folder / "report/tiny/similarity/tiny/val-sam-demo_sam.png") as picture:
        assert picture.size == (1100, 500)
        assert len(np.unique(np.asarray(picture.convert("RGB")))) > 100


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_match_equals_pycocotools(built: Any) -> None:
    checked = 0
    for split in ("train", "val"):
        for record in open_split(built.store, "tiny", split):
            masks = [region.coco() for region in record.masks]
            size = masks[0]["size"]
            assert [region["area"] for region in record.masks] == sorted((coco.area(m) for m in masks), reverse=True)
            shard, position = divmod(record.image_index, built.values["shard_images"])
            row = record.split.column("match/sam/instances").table(shard).to_pylist()[position]
            instances = [region.coco() for region in record.instances]
            assert [list(region["bbox"]) for region in record.instances] == [coco.toBbox(m).tolist() for m in instances]
            if instances:
                np.testing.assert_allclose(row["iou"], coco.iou(masks, instances, [0] * len(instances)), rtol=1e-6)
                # pycocotools' crowd IoU is the intersection over the first one's area: IoP
                np.testing.assert_allclose(row["iop"], coco.iou(masks, instances, [1] * len(instances)), rtol=1e-6)
            for target in record.targets:
                painted = {"size": size, "counts": target["segmentation"]}
                np.testing.assert_allclose(target["iou"], coco.iou(masks, [painted], [0])[:, 0], rtol=1e-6)
                np.testing.assert_allclose(target["iop"], coco.iou(masks, [painted], [1])[:, 0], rtol=1e-6)
                keep = coco.decode({"size": size, "counts": target["ignore"]}) == 0
                valid = [coco.encode(np.asfortranarray(coco.decode(m) * keep)) for m in (*masks, painted)]
                np.testing.assert_allclose(target["iou_valid"], coco.iou(valid[:-1], valid[-1:], [0])[:, 0], rtol=1e-6)
                union = coco.merge(instances) if instances else None
                assert union is None or coco.area(union) == coco.area(painted)
                checked += 1
    assert checked == sum(entry["images"] for entry in built.info()["splits"].values())


def test_the_photographs_are_upright_and_complete(photos: Any) -> None:
    rows = {record.image_id: record for split in ("train", "val") for record in open_split(photos.store, "tiny", split)}
    found = {path.stem for path in PHOTOS.glob("*/*") if path.suffix in (".jpg", ".png")} - {"explanatory"}
    assert set(rows) == found
    for record in rows.values():
        record.split.images_root = photos.data
        assert record.image().shape == (record.height_px, record.width_px, 3)
        assert all(region.decode().shape == (record.height_px, record.width_px) for region in record.masks)


def test_two_builds_have_the_same_bytes(photos: Any, tmp_path: Path) -> None:
    other = type(photos)(tmp_path)
    shutil.copytree(PHOTOS, other.data)
    other.configure(embed__mask_encoders=ALL, shard_images=3, run__prefetch=0)
    other.build("index", "extract --split val --stage masks", "extract --split val --stage match")
    ours = other.content()
    assert ours == {name: sha for name, sha in photos.content().items() if name in ours}
    assert len(ours) >= 8
