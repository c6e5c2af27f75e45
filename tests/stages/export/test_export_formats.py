"""PNG, Parquet, tar and npz: what is read from them by Pillow, pyarrow, tarfile and numpy is what the store holds."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from factory import Known
from PIL import Image

from stages.evaluate.external import read_external
from stages.export import FORMATS
from stages.export.content import Asked
from store import open_split, rle


def png(path: Path | io.BytesIO) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def decoded(value: dict[str, Any]) -> np.ndarray:
    return rle.decode(value["counts"], *value["size"])


def test_png_has_every_mask_in_one_form_or_the_other(known: Known, export: Any, tmp_path: Path) -> None:
    export("png", tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    forms = set()
    for entry, record in zip(index, open_split(known.store, "d", "val"), strict=True):
        assert (entry["image_id"], entry["path"]) == (record.image_id, record.path)
        for what in ("masks", "instances"):
            found, regions = entry[what], getattr(record, what)
            forms.add(found["form"])
            assert found["count"] == len(regions)
            overlap = any((a.decode() & b.decode()).any() for k, a in enumerate(regions) for b in regions[:k])
            assert found["form"] == ("files" if overlap else "labels")
            if found["form"] == "labels":
                numbers = png(tmp_path / found["file"])
                masks = [numbers == k + 1 for k in range(len(regions))]
            else:
                masks = [png(tmp_path / file) for file in found["files"]]
            for mask, region in zip(masks, regions, strict=True):
                np.testing.assert_array_equal(mask, region.decode())
        for found, target in zip(entry["targets"], record.targets, strict=True):
            assert found["texts"] == target["texts"]
            np.testing.assert_array_equal(png(tmp_path / found["file"]), rle.decode(target["segmentation"], 4, 6))
            ignore = rle.decode(target["ignore"], 4, 6)
            assert (found["ignore_file"] is not None) == ignore.any()
            if ignore.any():
                np.testing.assert_array_equal(png(tmp_path / found["ignore_file"]), ignore)
    assert forms == {"labels", "files"}


def test_exported_predictions_are_scored_as_pngs(
    known: Known, export: Any, answers: dict[str, Any], tmp_path: Path
) -> None:
    export("png", tmp_path, ("predictions",))
    split = open_split(known.store, "d", "val")
    found = read_external(tmp_path / "predictions", split)
    expected = {name: given for name, (given,) in answers.items()}
    assert {each.target_id for each in found} == set(expected)
    nothing = rle.union([], 4, 6)
    for each in found:
        assert (each.segmentation or nothing) == (expected[each.target_id].segmentation or nothing)


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "I;16"), (600, "I;16")])
def test_numbers_of_many_masks_have_sixteen_bits(item: Any, count: int, mode: str) -> None:
    masks = [np.arange(600).reshape(20, 30) == k for k in range(count)]
    asked = Asked("d", "val", ("masks",), 1, "none", "sam")
    made = FORMATS["png"].unit(asked, [item("a", masks)], 0)
    (data,) = made.files.values()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        numbers = np.asarray(image).astype(int)
    expected = np.arange(600).reshape(20, 30) + 1
    np.testing.assert_array_equal(numbers, np.where(expected <= count, expected, 0))


def test_parquet_has_the_form_of_the_hub(known: Known, export: Any, tmp_path: Path) -> None:
    export("hf", tmp_path, encoders=("x",), pictures="copy")
    (path,) = (tmp_path / "data").iterdir()
    assert path.name == "val-00000-of-00001.parquet"
    table = pq.read_table(path)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["target_masks"] == [{"_type": "Image"}]
    assert features["masks_x"] == [[{"dtype": "float32", "_type": "Value"}]]
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    split = open_split(known.store, "d", "val")
    for row, record in zip(table.to_pylist(), split, strict=True):
        assert row["image"] == {"bytes": record.path.encode(), "path": f"{record.image_index:09d}.jpg"}
        assert (row["height"], row["width"]) == (4, 6)
        assert [each["segmentation"] for each in row["masks"]] == [each.segmentation for each in record.masks]
        assert [each["predicted_iou"] for each in row["masks"]] == [each["predicted_iou"] for each in record.masks]
        assert [each["bbox"] for each in row["instances"]] == [list(each["bbox"]) for each in record.instances]
        assert [each["texts"] for each in row["targets"]] == [each["texts"] for each in record.targets]
        vectors = np.array(row["masks_x"], np.float32).reshape(-1, 8)
        np.testing.assert_array_equal(vectors, record["mask_embeddings/x"].astype(np.float32))
        for shown, target in zip(row["target_masks"], record.targets, strict=True):
            mask = png(io.BytesIO(shown["bytes"]))
            np.testing.assert_array_equal(mask, rle.decode(target["segmentation"], 4, 6))
    card = (tmp_path / "README.md").read_text()
    assert "path: data/val-*.parquet" in card
    assert all(f"- `{name}`: " in card for name in table.schema.names)


def test_a_split_has_a_name_that_the_hub_allows(item: Any) -> None:
    asked = Asked("d", "val-unc", ("masks",), 1, "none", "sam")
    form = FORMATS["hf"]
    assert list(form.unit(asked, [item(masks=[np.eye(4, 6, dtype=bool)])], 0).files) == [
        "data/val_unc-00000-of-00001.parquet"
    ]
    ((_, (card,)),) = form.finish(asked, lambda: iter(()))
    assert b"split: val_unc\n" in card


def test_tar_shards_have_picture_json_and_vectors(known: Known, export: Any, tmp_path: Path) -> None:
    export("webdataset", tmp_path, encoders=("x",), pictures="copy", whats=("masks", "targets"))
    split = open_split(known.store, "d", "val")
    with tarfile.open(tmp_path / "000000.tar") as tar:
        members = tar.getmembers()
        assert [member.name for member in members[:3]] == ["000000000.jpg", "000000000.json", "000000000.npy"]
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
        content = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    assert len(content) == 3 * len(split)
    for record in split:
        key = f"{record.image_index:09d}"
        assert content[f"{key}.jpg"] == record.path.encode()
        said = json.loads(content[f"{key}.json"])
        assert said["image_id"] == record.image_id
        for found, mask in zip(said["masks"], record.masks, strict=True):
            np.testing.assert_array_equal(decoded(found["segmentation"]), mask.decode())
        assert [each["texts"] for each in said["targets"]] == [each["texts"] for each in record.targets]
        vectors = np.load(io.BytesIO(content[f"{key}.npy"]), allow_pickle=False)
        assert vectors.dtype == np.float16
        np.testing.assert_array_equal(vectors, record["mask_embeddings/x"])


def test_vectors_of_several_kinds_have_names_of_their_own(export: Any, tmp_path: Path) -> None:
    export("webdataset", tmp_path, encoders=("x",), whats=("masks", "instances"))
    with tarfile.open(tmp_path / "000000.tar") as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"json", "masks.x.npy", "instances.x.npy"}


def test_npz_needs_no_pickle_and_has_the_keys_of_the_page(known: Known, export: Any, tmp_path: Path) -> None:
    export("numpy", tmp_path, encoders=("x",))
    page = (Path(__file__).resolve().parents[3] / "docs/export.md").read_text()
    index = json.loads((tmp_path / "index.json").read_text())
    for entry, record in zip(index, open_split(known.store, "d", "val"), strict=True):
        with np.load(tmp_path / entry["file"], allow_pickle=False) as found:
            got = dict(found)
        assert str(got["image_id"]) == record.image_id == entry["image_id"]
        assert entry["path"] == record.path
        height, width = got["size_px"]

        def masks(bits: np.ndarray, size: tuple[int, int] = (height, width)) -> np.ndarray:
            return np.unpackbits(bits, axis=1, count=size[0] * size[1]).reshape(-1, *size).astype(bool)

        for what in ("masks", "instances"):
            regions = getattr(record, what)
            assert len(got[f"{what}.bits"]) == len(regions)
            for mask, region in zip(masks(got[f"{what}.bits"]), regions, strict=True):
                np.testing.assert_array_equal(mask, region.decode())
            assert got[f"{what}.bbox"].tolist() == [list(region["bbox"]) for region in regions]
        np.testing.assert_array_equal(got["masks.embeddings.x"], record["mask_embeddings/x"])
        assert got["masks.predicted_iou"].tolist() == [mask["predicted_iou"] for mask in record.masks]
        texts, offsets = got["targets.texts"].tolist(), got["targets.texts.offsets"]
        for k, target in enumerate(record.targets):
            assert texts[offsets[k] : offsets[k + 1]] == target["texts"]
            np.testing.assert_array_equal(
                masks(got["targets.bits"])[k], rle.decode(target["segmentation"], height, width)
            )
        assert got["predictions.target_id"].tolist() == [target["target_id"] for target in record.targets]
        for key in got:
            assert f"`{key.replace('.embeddings.x', '.embeddings.ENCODER')}`" in page, key
