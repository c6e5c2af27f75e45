"""The verb ``import``, and what ``extract`` makes of imported masks and vectors: the store has what the files said."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer.main
import yaml
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator

from pipeline.config import Settings
from stages.proposers.sam.model import build_sam
from store import open_split, rle

ROOT = Path(__file__).resolve().parents[2]
ANY_MASK = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9}
VAL = ("fox", "gnu", "hen")
SCORES = ("predicted_iou", "stability_score")


def plain(project: Any, **changes: Any) -> None:
    """No network at all: masks and vectors come from files."""
    changes = {
        "proposers": {"grid": {"kind": "grid", "cells_per_side": [2]}},
        "means": {},
        "splits": ["val"],
        **changes,
    }
    project.configure(
        **changes, embed__mask_encoders=[], embed__image_encoders=[], embed__sam_features=[], train__proposer=None,
        run__weights_dir=str(project.folder / "weights"), run__max_failures=9, train__mean=None,
    )  # fmt: skip


@pytest.fixture
def indexed(tmp_path: Path, project_at: Callable[[Path], Any]) -> Any:
    """Three pictures of 48 x 64 px, indexed."""
    project = project_at(tmp_path)
    for seed, name in enumerate(VAL, start=10):
        project.add("val", name, seed)
    plain(project)
    project.build("index")
    return project


def adopt(project: Any, told: dict[str, Any], **changes: Any) -> None:
    """Add to the params what the command said to add."""
    values = yaml.safe_load(project.params.read_text())
    values["proposers"] |= told["params"].get("proposers", {})
    values["embed"] |= told["params"].get("embed", {})
    values |= changes
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))


def imported(project: Any, *words: str, code: int = 0) -> dict[str, Any]:
    done = project.run("import", *words, "--json")
    assert done.code == code, done.out + done.err
    return dict(json.loads(done.out))


def masks_in(project: Any, column: str) -> dict[str, list[dict[str, Any]]]:
    split = open_split(project.store, "tiny", "val", columns=["images", column])
    return {record.image_id: list(record.masks) for record in split.of_proposer(column.partition("/")[2])}


def cells(seed: int, count: int = 5) -> list[np.ndarray]:
    """Masks of 48 x 64 px in no order of their areas, two of them equally large."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        mask = np.zeros((48, 64), bool)
        top, left = (int(value) for value in rng.integers(0, 20, 2))
        height, width = (7, 9) if number < 2 else (int(rng.integers(2, 25)), int(rng.integers(2, 40)))
        mask[top + number : top + number + height, left : left + width] = True
        found.append(mask)
    return found


def amg(mask: np.ndarray, **more: Any) -> dict[str, Any]:
    return {"segmentation": {"size": list(mask.shape), "counts": rle.encode(mask)}, **more}


def test_sams_own_records_come_back_from_the_store_as_they_were(indexed: Any) -> None:
    """The official generator's output, as scripts/amg.py writes it, next to the same files in SA-1B's and LLM-Seg's form."""
    sam = build_sam("demo_sam", ROOT / "demo/models/demo_sam.safetensors", "cpu")
    generator = SamAutomaticMaskGenerator(sam, output_mode="coco_rle", **ANY_MASK)
    folder = indexed.folder / "amg"
    folder.mkdir()
    official: dict[str, list[dict[str, Any]]] = {}
    for name in VAL:
        (path,) = (indexed.data / "val").glob(f"{name}.[jp][pn]g")
        official[name] = generator.generate(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        (folder / f"{name}.json").write_text(json.dumps(official[name]))
    told = imported(indexed, str(folder), "--name", "mine")
    areas = [record["area"] for records in official.values() for record in records]
    assert (told["pictures"], told["masks"], told["without_a_pixel"]) == (3, np.count_nonzero(areas), areas.count(0))
    assert told["masks"] > 6
    adopt(indexed, told)
    indexed.build("extract")
    found = masks_in(indexed, "masks/mine")
    for name, records in official.items():
        wanted = sorted((one for one in records if one["area"]), key=lambda record: -record["area"])
        assert len(found[name]) == len(wanted)
        for mask, record in zip(found[name], wanted, strict=True):
            assert mask["segmentation"] == record["segmentation"]["counts"]
            assert list(mask["bbox"]) == record["bbox"]
            assert mask["area"] == record["area"]
            assert list(mask["crop_box"]) == record["crop_box"]
            assert list(mask["point_coords"]) == record["point_coords"][0]
            assert [mask[key] for key in SCORES] == pytest.approx([record[key] for key in SCORES])
    many = [{"image": f"{n}.jpg", "target_size": [48, 64], "masks": official[n]} for n in VAL]
    (indexed.folder / "masks.json").write_text(json.dumps(many))
    sa1b = indexed.folder / "sa1b"
    sa1b.mkdir()
    for number, name in enumerate(VAL):
        image = {"image_id": number, "height": 48, "width": 64, "file_name": f"{name}.jpg"}
        (sa1b / f"{number}.json").write_text(json.dumps({"image": image, "annotations": official[name]}))
    for path in (indexed.folder / "masks.json", sa1b):
        again = imported(indexed, str(path), "--name", "again")
        adopt(indexed, again)
        indexed.build("extract --proposer again --replace")
        assert masks_in(indexed, "masks/again") == found


def test_nothing_is_computed_again_and_another_file_makes_the_column_stale(indexed: Any) -> None:
    folder = indexed.folder / "amg"
    folder.mkdir()
    for seed, name in enumerate(VAL):
        (folder / f"{name}.json").write_text(json.dumps([amg(mask) for mask in cells(seed)]))
    first = imported(indexed, str(folder), "--name", "mine")
    assert imported(indexed, str(folder), "--name", "mine") == first, "the same files give the same archive"
    adopt(indexed, first)
    indexed.build("extract")
    before = indexed.times()
    assert {"masks/mine/val#0", "masks/mine/val#1", "match/mine/targets/val#0"} <= before.keys()
    indexed.build("extract")
    assert indexed.recomputed(before) == set()
    (folder / "fox.json").write_text(json.dumps([amg(mask) for mask in cells(9)]))
    second = imported(indexed, str(folder), "--name", "mine")
    adopt(indexed, second)
    done = indexed.run("extract")
    assert done.code == 2
    assert "params.sha256: " in done.err
    assert "--replace" in done.err
    indexed.build("extract --replace")
    assert masks_in(indexed, "masks/mine")["fox"] != []
    adopt(indexed, first)
    Path(ROOT, first["archives"]["masks"]).unlink()
    assert "import the same files again" in indexed.run("extract", "--replace").err
    assert "import the same files again" in indexed.run("extract", "--replace", "--dry-run").out
    assert "import the same files again" in indexed.run("weights").out
    assert indexed.run("info").code == 0
    Path(ROOT, first["archives"]["masks"]).write_bytes(b"another file")
    done = indexed.run("extract", "--replace")
    assert (done.code, "found sha256" in done.err) == (2, True)


def test_a_vector_follows_its_mask_whatever_the_order(indexed: Any) -> None:
    """Masks of a file lie in no order; vectors of the same order find them in the store, where the largest come first."""
    masks, vectors, folder = {}, {}, indexed.folder / "npz"
    folder.mkdir()
    for seed, name in enumerate(VAL):
        masks[name] = [
            *cells(seed),
            np.zeros((48, 64), bool),
            cells(seed)[3],
        ]  # an empty one, and one that stands twice
        vectors[name] = np.random.default_rng(seed).standard_normal((7, 4)).astype(np.float16)
        np.savez(folder / f"{name}.npz", masks=np.stack(masks[name]), vectors=vectors[name])
    told = imported(indexed, str(folder), "--name", "mine")
    assert (told["masks"], told["vectors"], told["without_a_pixel"], told["dim"]) == (18, 18, 3, 4)
    adopt(indexed, told, means={"tiny": {"train": ["tiny/val"]}})
    indexed.build("extract", "normalize")
    split = open_split(indexed.store, "tiny", "val", proposer="mine")
    assert not any(column.startswith("instance_embeddings") for column in split.columns)
    for record in split:
        areas = [mask.sum() for mask in masks[record.image_id]]
        order = [k for k in sorted(range(7), key=lambda k: -areas[k]) if areas[k]]
        assert order != sorted(order)
        assert [mask["area"] for mask in record.masks] == [areas[k] for k in order]
        np.testing.assert_array_equal(record["mask_embeddings/mine"], vectors[record.image_id][order])
        mean = np.concatenate([vectors[name][[0, 1, 2, 3, 4, 6]] for name in VAL]).astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(
            record["centered/tiny/mask_embeddings/mine"], vectors[record.image_id][order] - mean, atol=2e-3
        )
    file_order = indexed.folder / "more.npz"  # vectors alone, in the order of the file that the masks came from
    np.savez(file_order, **{name: -vectors[name] for name in VAL})
    more = imported(indexed, str(file_order), "--name", "negated", "--of", "mine")
    stored = {record.image_id: 2 * record["mask_embeddings/mine"] for record in split}
    np.savez(indexed.folder / "stored.npz", **{f"val/{name}.jpg": stored[name] for name in VAL})
    doubled = imported(
        indexed, str(indexed.folder / "stored.npz"), "--name", "doubled", "--of", "mine", "--stored-order"
    )
    entries = [each["params"]["embed"]["imported"] for each in (told, more, doubled)]
    adopt(indexed, {"params": {"embed": {"imported": {key: entry for each in entries for key, entry in each.items()}}}})
    indexed.build("extract")
    for record in open_split(indexed.store, "tiny", "val", proposer="mine"):
        own = record["mask_embeddings/mine"]
        np.testing.assert_array_equal(record["mask_embeddings/negated"], -own)
        np.testing.assert_array_equal(record["mask_embeddings/doubled"], 2 * own)


def test_vectors_of_a_computed_proposer_and_of_more_masks_than_have_a_place(indexed: Any) -> None:
    plain(indexed, proposers={"grid": {"kind": "grid", "cells_per_side": [5]}})  # 25 masks, of which 16 have vectors
    indexed.build("extract")
    masks = masks_in(indexed, "masks/grid")
    vectors = {name: np.random.default_rng(3).random((len(masks[name]), 3), np.float32) for name in VAL}
    np.savez(indexed.folder / "v.npz", **vectors)
    told = imported(indexed, str(indexed.folder / "v.npz"), "--name", "own", "--of", "grid")
    assert told["vectors"] == 75
    typed = f"python cli.py --params {indexed.params} extract"
    assert told["extract"] == f"{typed} --stage embed --encoder own"
    adopt(indexed, told)
    indexed.build("extract --encoder own")
    for record in open_split(indexed.store, "tiny", "val", proposer="grid"):
        np.testing.assert_array_equal(record["mask_embeddings/own"], vectors[record.image_id][:16].astype(np.float16))
    np.savez(indexed.folder / "v.npz", fox=vectors["fox"][:20], gnu=vectors["gnu"])
    told = imported(indexed, str(indexed.folder / "v.npz"), "--name", "own", "--of", "grid", code=1)
    assert told["failed"] == {"fox": "20 vectors, expected one for each of 25 masks"}


def shape(mask: np.ndarray) -> list[Any]:
    square = cv2.resize(mask.astype(np.uint8) * 255, (1024, 1024))
    contours = cv2.findContours(square, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    return [[[int(x), int(y)] for ((x, y),) in contour] for contour in contours]


def test_elisas_file_becomes_masks_and_vectors_of_masks_and_instances(indexed: Any) -> None:
    """As its preprocess.py does: squashed to 1024 x 1024, contours, one vector per mask; the file is the only input."""
    lines, masks, vectors, of_instances = [], {}, {}, {}
    for seed, record in enumerate(open_split(indexed.store, "tiny", "val", columns=["images", "instances"])):
        ring = cells(seed)[4].copy()
        ring[23:26, 30:32] = False
        masks[record.image_id] = [*cells(seed)[:4], ring]
        vectors[record.image_id] = np.random.default_rng(seed).standard_normal((5, 6)).astype(np.float16)
        regions = [rle.decode(one["segmentation"], 48, 64) for one in record.instances]
        of_instances[record.image_id] = np.arange(len(regions) * 6, dtype=np.float16).reshape(-1, 6)
        line = {"img": f"{record.image_id}.jpg", "gt_embs": of_instances[record.image_id][::-1].tolist()}
        line |= {"sam_embs": vectors[record.image_id].tolist(), "gt_shapes": [shape(mask) for mask in regions[::-1]]}
        lines.append(json.dumps(line | {"sam_shapes": [shape(mask) for mask in masks[record.image_id]]}))
    path = indexed.folder / "val_TEST.jsonl"
    path.write_text("\n".join([*lines, lines[0]]) + "\n")
    told = imported(indexed, str(path), "--name", "old", "--split", "val")
    assert (told["pictures"], told["masks"], told["vectors"], told["repeated"], told["resized"]) == (3, 15, 15, 1, 3)
    assert told["regions_left_out"] == 0
    assert told["params"]["embed"]["imported"]["old"]["instances"] is True
    adopt(indexed, told)
    indexed.build("extract")
    for record in open_split(indexed.store, "tiny", "val", proposer="old"):
        name = record.image_id
        found = [rle.decode(mask["segmentation"], 48, 64) for mask in record.masks]
        for mask, vector in zip(found, record["mask_embeddings/old"], strict=True):
            iou = [(mask & own).sum() / (mask | own).sum() for own in masks[name]]
            assert max(iou) > 0.6  # at 1024 x 1024 px ELISA takes what is more than 0: a small mask grows
            np.testing.assert_array_equal(vector, vectors[name][int(np.argmax(iou))])
        np.testing.assert_array_equal(record["instance_embeddings/old"], of_instances[name])


def test_masks_of_a_reduced_picture_are_brought_to_its_size(indexed: Any) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)).save(
        indexed.data / "val/yak.jpg"
    )
    indexed.build("index")
    small = np.zeros((576, 1024), bool)  # as LLM-Seg reduces it
    small[100:300, 200:800] = True
    record = amg(small, point_coords=[[512, 288]], crop_box=[0, 0, 1024, 576])
    (indexed.folder / "masks.json").write_text(
        json.dumps([{"image": "yak.jpg", "target_size": [576, 1024], "masks": [record]}])
    )
    told = imported(indexed, str(indexed.folder / "masks.json"), "--name", "llmseg")
    assert told["resized"] == 1
    assert told["missing"] == [f"tiny/val: val/{n}.{'jpg' if n != 'gnu' else 'png'}" for n in VAL]
    adopt(indexed, told)
    done = indexed.run("extract", "--stage", "masks")
    assert done.code == 0
    split = open_split(indexed.store, "tiny", "val", columns=["images", "masks/llmseg"])
    (mask,) = split["yak"].masks
    assert (list(mask["point_coords"]), list(mask["crop_box"])) == ([800, 450], [0, 0, 1600, 900])
    found = rle.decode(mask["segmentation"], 900, 1600)
    np.testing.assert_array_equal(
        cv2.resize(found.astype(np.uint8), (1024, 576), interpolation=cv2.INTER_NEAREST_EXACT), small
    )
    assert split["fox"].status == "ok"
    failed = json.loads(indexed.run("info", "--json").out)
    assert "the imported masks have none of this picture" in json.dumps(failed)


def test_what_is_left_out_is_counted_with_its_reason(indexed: Any) -> None:
    right = amg(cells(0)[0])
    entries = [
        {"image": "fox.jpg", "target_size": [48, 64], "masks": [right, amg(np.zeros((40, 64), bool))]},
        {"image": "elsewhere/gnu.jpg", "target_size": [48, 64], "masks": [right]},
        {"image": "../../../etc/passwd", "target_size": [48, 64], "masks": [right]},
        {"image": "hen.jpg", "target_size": [48, 64], "masks": [right]},
        {"image": "hen", "target_size": [48, 64], "masks": [right, right]},
        {"image": "C:\\data\\gnu.png", "target_size": [48, 64], "masks": [right]},
        {"image": None, "target_size": [48, 64], "masks": []},
    ]
    path = indexed.folder / "masks.json"
    path.write_text(json.dumps(entries))
    told = imported(indexed, str(path), "--name", "mine", code=1)
    assert (told["entries"], told["pictures"], told["masks"], told["repeated"]) == (7, 1, 2, 1)
    assert told["failed"] == {
        "fox.jpg": "mask 1: size is [40, 64], expected [48, 64]",
        "hen": "it stands twice in the files, with other masks or vectors",
        "image is null, expected str": "image is null, expected str",
    }
    assert told["unknown"] == ["../../../etc/passwd"]
    text = indexed.run("import", str(path), "--name", "mine")
    assert text.code == 1
    assert (
        "3 pictures failed, and will be failed rows: fox.jpg (mask 1: size is [40, 64], expected [48, 64])" in text.out
    )
    assert "1 pictures of the files are not in these splits, and were left out: ../../../etc/passwd" in text.out
    assert "  mine:\n    kind: imported\n    sha256: " in text.out
    adopt(indexed, told)
    done = indexed.run("extract", "--stage", "masks")
    assert done.code == 0, "run.max_failures is 9"
    reasons = json.dumps(indexed.info())
    assert "the imported file: mask 1: size is [40, 64], expected [48, 64]" in reasons
    assert "the imported file: it stands twice" in reasons
    split = open_split(indexed.store, "tiny", "val", columns=["images", "masks/mine"])
    assert len(split.of_proposer("mine")["gnu"].masks) == 1


def test_a_name_of_two_pictures_is_not_guessed(indexed: Any) -> None:
    indexed.add("train", "fox", 77)
    plain(indexed, splits=["train", "val"])
    indexed.build("index")
    (indexed.folder / "fox.json").write_text(json.dumps([amg(cells(0)[0])]))
    done = indexed.run("import", str(indexed.folder / "fox.json"), "--name", "mine")
    assert done.code == 2
    assert "'fox' may mean several pictures; choose splits by --data and --split" in done.err
    told = imported(indexed, str(indexed.folder / "fox.json"), "--name", "mine", "--split", "train")
    assert told["pictures"] == 1
    assert told["extract"].endswith(" extract --split train --proposer mine"), "val is not in the file"


REFUSED = {
    "no such file": (["none.json", "--name", "x"], "found no such file or folder"),
    "damaged": (["damaged.json", "--name", "x"], "damaged.json: not JSON"),
    "nobody": (
        ["nobody.json", "--name", "x"],
        "'nobody' is not in these splits, which have pictures such as tiny/val: val/fox.jpg",
    ),
    "a computed proposer": (["fox.json", "--name", "grid"], "grid is a proposer of the kind grid"),
    "an encoder": (["fox.json", "--name", "demo_dinov2"], "demo_dinov2 is the name of an encoder"),
    "a bad name": (["fox.json", "--name", "../x"], "--name: found '../x', expected letters"),
    "no proposer": (
        ["fox.npz", "--name", "x", "--of", "gird"],
        "found 'gird', expected one of grid (did you mean 'grid'?)",
    ),
    "order of nothing": (["fox.json", "--name", "x", "--stored-order"], "expected --of PROPOSER next to it"),
    "vectors alone": (["fox.npz", "--name", "x"], "say which proposer's masks they are of: --of PROPOSER"),
    "not computed": (["fox.npz", "--name", "x", "--of", "grid"], "run: python cli.py extract --split val"),
    "no split": (["fox.json", "--name", "x", "--split", "test"], "--split: found 'test'"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_taken_is_refused_and_nothing_is_written(indexed: Any, words: list[str], message: str) -> None:
    folder = indexed.folder
    (folder / "damaged.json").write_text("[{")
    for name in ("fox", "nobody"):
        (folder / f"{name}.json").write_text(json.dumps([amg(cells(0)[0])]))
    np.savez(folder / "fox.npz", vectors=np.zeros((4, 3)))
    done = indexed.run("import", str(folder / words[0]), *words[1:])
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not [path for path in (folder / "weights").rglob("*") if path.is_file()]


def test_vectors_that_are_not_finite_fail_with_their_picture(indexed: Any) -> None:
    stack, folder = np.stack(cells(0)), indexed.folder / "npz"
    folder.mkdir()
    values = np.ones((5, 3))
    np.savez(folder / "fox.npz", masks=stack, vectors=values)
    np.savez(folder / "gnu.npz", masks=stack, vectors=np.where(np.eye(5, 3) > 0, np.nan, values))
    np.savez(folder / "hen.npz", masks=stack, vectors=values[:, :2])
    told = imported(indexed, str(folder), "--name", "mine", code=1)
    assert told["failed"] == {
        "gnu": "vector 0 has NaN",
        "hen": "vectors of 2 numbers, expected 3 as in the pictures before",
    }


def test_params_that_do_not_fit_the_archive_are_refused(indexed: Any) -> None:
    np.savez(indexed.folder / "fox.npz", masks=np.stack(cells(0)), vectors=np.ones((5, 3)))
    told = imported(indexed, str(indexed.folder / "fox.npz"), "--name", "mine")
    adopt(indexed, told)
    vectors = told["params"]["embed"]["imported"]["mine"]
    other = f"{{sha256: {vectors['sha256']}, dim: 3, proposers: [mine]}}"
    wrong = {
        f"proposers.mine.sha256={vectors['sha256']}": "found imported vectors of version 1, expected masks of 1",
        "embed.imported.mine.dim=4": "its vectors have 3 numbers, the params say dim: 4",
        "embed.imported.mine.proposers=[min]": "found 'min', expected one of grid, mine (did you mean 'mine'?)",
        "proposers.mine.sha256=abc": "found 'abc', expected 64 hexadecimal digits",
        f"embed.imported={{demo_dinov2: {other}}}": "demo_dinov2 is the name of an encoder; choose another one",
    }
    for change, message in wrong.items():
        done = indexed.run("--set", change, "extract")
        assert (done.code, message in done.err) == (2, True), done.err
    assert not list(indexed.store.rglob("mask_embeddings/**/c/**"))


def test_a_kill_leaves_nothing_but_a_file_that_the_next_import_removes(
    indexed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (indexed.folder / "fox.json").write_text(json.dumps([amg(cells(0)[0])]))
    folder = indexed.folder / "weights/imported"
    folder.mkdir(parents=True)
    (folder / ".tmp-dead").write_bytes(b"half a file")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("stages.imported.archive.Writer.finish", interrupt)
        assert indexed.run("import", str(indexed.folder / "fox.json"), "--name", "mine").code == 130
    assert list(folder.iterdir()) == []


def test_import_loads_no_torch(indexed: Any) -> None:
    (indexed.folder / "fox.json").write_text(json.dumps([amg(cells(0)[0])]))
    code = "import sys, cli; cli.main(); assert not {'torch', 'dask', 'zarr'} & set(sys.modules), 'heavy'"
    words = ["--params", str(indexed.params), "import", str(indexed.folder / "fox.json"), "--name", "mine"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.replace("import: 1 of 3 pictures\n", "")) == (0, "")


def test_an_archive_is_part_of_the_identity_and_no_other_params_change_it(indexed: Any) -> None:
    from pipeline.graph import column_identity
    from pipeline.params_file import load_settings

    np.savez(indexed.folder / "fox.npz", masks=np.stack(cells(0)), vectors=np.ones((5, 3)))
    told = imported(indexed, str(indexed.folder / "fox.npz"), "--name", "mine")
    adopt(indexed, told)

    def identity(column: str, *changes: str) -> dict[str, Any]:
        settings: Settings = load_settings(indexed.params, changes)
        return column_identity(settings, "tiny", column)

    masks, vectors = (
        told["params"]["proposers"]["mine"]["sha256"],
        told["params"]["embed"]["imported"]["mine"]["sha256"],
    )
    assert identity("masks/mine")["weights"] == {f"imported/{masks}": masks}
    of = identity("mask_embeddings/mine/mine")
    assert of["weights"] == {f"imported/{vectors}": vectors}
    assert identity("mask_embeddings/mine/mine", "embed.precision=bfloat16", "embed.imported.mine.instances=true") == of


def test_the_page_s_examples_work(indexed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/import.md from top to bottom, in a folder with SAM's files, on other names."""
    page = (ROOT / "docs/import.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    assert [language for language, _ in blocks] == ["", "yaml", "python", "", "yaml"]
    monkeypatch.chdir(indexed.folder)
    Path("amg_masks").mkdir()
    for seed, name in enumerate(VAL):
        Path(f"amg_masks/{name}.json").write_text(json.dumps([amg(mask) for mask in cells(seed)]))
    entries = [yaml.safe_load(text.replace("...", "0")) for language, text in blocks if language == "yaml"]
    commands = [shlex.split(text)[2:] for language, text in blocks if not language]
    first = imported(indexed, *commands[0][1:])
    assert first["params"]["proposers"].keys() == entries[0]["proposers"].keys() == {"mine"}
    assert first["params"]["proposers"]["mine"].keys() == entries[0]["proposers"]["mine"].keys()
    assert first["extract"] == f"python cli.py --params {indexed.params} extract --proposer mine"
    adopt(indexed, first)
    indexed.build("extract --split val --proposer mine")
    here = {"elisa_store": "store", '"data/store"': repr(str(indexed.store)), '"demo"': '"tiny"'}
    here |= {'"data/demo"': repr(str(indexed.data)), "demo_sam": "mine"}
    (block,) = [text for language, text in blocks if language == "python"]
    for there, value in here.items():
        assert there in block
        block = block.replace(there, value)
    names: dict[str, Any] = {}
    exec(block, names)
    second = imported(indexed, *(word.replace("demo_sam", "mine") for word in commands[1][1:]))
    entry = entries[1]["embed"]["imported"]["my_encoder"]
    assert second["params"]["embed"]["imported"]["my_encoder"] | {"sha256": ""} == entry | {
        "sha256": "",
        "proposers": ["mine"],
    }
    adopt(indexed, second)
    indexed.build("extract --split val --encoder my_encoder")
    for record in open_split(indexed.store, "tiny", "val", proposer="mine"):
        wanted = names["vectors"][record.image_id].astype(np.float16)
        np.testing.assert_array_equal(record["mask_embeddings/my_encoder"], wanted)


def test_the_examples_of_the_help_page_parse() -> None:
    group = typer.main.get_command(importlib.import_module("cli").app)
    examples = re.findall(r"`python cli.py (import [^`]+)`", str(group.commands["import"].help))  # type: ignore[attr-defined]
    assert len(examples) == 4
    for words in map(shlex.split, examples):
        group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
