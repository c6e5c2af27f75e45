"""``pipeline.commands.evaluate``: any file of predictions in, a table and figures out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store, write_images, write_table
from PIL import Image

from pipeline.commands.evaluate import evaluate_command
from pipeline.commands.evaluate_input import name_of, with_names_of_their_own
from pipeline.config import InputError, Settings
from pipeline.params_file import load_settings
from stages.evaluate import BASELINE_NAMES, Meta, Prediction, write
from stages.evaluate.published import published
from stages.evaluate.tables import as_text
from stages.names import SplitRef
from store import rle
from store.errors import DamagedStoreError, StoreError

ROOT = Path(__file__).resolve().parents[2]

VAL = SplitRef("d", "val")


@pytest.fixture
def ready(empty: Any) -> tuple[Settings, Known]:
    """Settings of a store that holds ``d/val``."""
    empty.configure(dataset="d", splits=["val", "other"], means={"tiny": {"train": ["val"]}}, embed__max_masks=16)
    return load_settings(empty.params), full_store(empty.store)


def answers(known: Known) -> list[Prediction]:
    rng = np.random.default_rng(0)
    ids = [target["target_id"] for targets in known.targets for target in targets]
    return [Prediction(name, 0, rle.encode(rng.random((4, 6)) < 0.5), False, (), "[SEG].") for name in ids]


def test_our_file_and_the_same_in_json_give_the_same_figures(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.json"
    write(ours, Meta("theirs", "d", "val", "teacher_forced", "proposals"), answers(known))
    coco = [{"size": [4, 6], "counts": answer.segmentation} for answer in answers(known)]
    ids = [answer.target_id for answer in answers(known)]
    theirs.write_text(json.dumps([{"target_id": a, "segmentation": b} for a, b in zip(ids, coco, strict=True)]))
    text, figures = evaluate_command(settings, VAL, ours, "error")
    other_text, other = evaluate_command(settings, VAL, theirs, "error")
    assert "teacher-forced" in text
    assert "generated" in other_text
    assert figures["mode"] == "teacher_forced"
    assert figures["questions"] == len(ids)
    mine = figures["groups"]["all"]["theirs"]
    assert mine["f1"]["value"] == 0
    assert other["groups"]["all"]["theirs"] == {
        k: v for k, v in mine.items() if k not in ("precision", "recall", "f1", "accuracy")
    }
    assert list(figures["groups"]["all"]) == ["theirs", *BASELINE_NAMES]
    json.dumps(figures, allow_nan=False)
    assert "No published figures for this split; there are some for ReasonSeg, LLM-Seg40K." in text
    for name in ("theirs", *BASELINE_NAMES):
        assert f"| {name} |" in text
    for title in ("All targets", "Short queries", "Long queries", "Existing targets", "Empty targets"):
        assert f"## {title}" in text


def test_the_same_empty_masks_are_as_empty_in_ours_as_in_theirs(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    """Without a word of [REJ] from either."""
    settings, known = ready
    empty = [Prediction(answer.target_id, 0, None, False) for answer in answers(known)]
    write(tmp_path / "a.parquet", Meta("a", "d", "val"), empty)
    (tmp_path / "a.json").write_text(json.dumps([{"target_id": e.target_id, "segmentation": None} for e in empty]))
    found = [evaluate_command(settings, VAL, tmp_path / name)[1]["groups"] for name in ("a.parquet", "a.json")]
    assert found[0] == found[1]
    assert [found[0]["all"]["a"][name]["value"] for name in ("n_acc", "t_acc")] == [1, 0]
    assert "said_rej" not in found[0]["all"]["a"]


def test_pngs_of_scores_need_a_threshold(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    rng = np.random.default_rng(0)
    for answer in answers(known):
        path = tmp_path / "scores" / f"{answer.target_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (4, 6), np.uint8)).save(path)
    with pytest.raises(InputError, match=r"grey values, expected two.*--threshold N takes"):
        evaluate_command(settings, VAL, tmp_path / "scores")
    text, _ = evaluate_command(settings, VAL, tmp_path / "scores", threshold=128)
    assert "- The masks of PNGs: grey values of at least 128." in text
    with pytest.raises(InputError, match="--threshold: found 0, expected 1 or more"):
        evaluate_command(settings, VAL, tmp_path / "scores", threshold=0)
    write(tmp_path / "a.parquet", Meta("a", "d", "val"), answers(known))
    with pytest.raises(InputError, match="--threshold is for a folder of PNGs, found a file"):
        evaluate_command(settings, VAL, tmp_path / "a.parquet", threshold=128)


def test_the_protocol_has_a_table_of_its_own(
    ready: tuple[Settings, Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, known = ready
    monkeypatch.setattr(
        "pipeline.commands.evaluate.published", lambda dataset, split, protocol: published("ReasonSeg", split, protocol)
    )
    entries = [
        {"target_id": a.target_id, "segmentation": {"size": [4, 6], "counts": a.segmentation}, "rejected": k % 2 == 0}
        for k, a in enumerate(answers(known))
    ]
    path = tmp_path / "gsva7b.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"\[0\]: image0/0: it is rejected, but has a mask.*--protocol gsva"):
        evaluate_command(settings, VAL, path)
    text, figures = evaluate_command(settings, VAL, path, protocol="gsva")
    assert text.startswith("# gsva7b on d, val, protocol gsva\n")
    assert "### Protocol gsva, as GSVA's released code computes it" in text
    assert "false alarms do not join (they do on gRefCOCO) the unions" in text
    assert "published" not in text
    assert set(figures["groups"]["all"]["gsva7b"]) == {"gsva_giou", "gsva_ciou", "gsva_n_acc", "gsva_t_acc"}
    assert figures["protocol"] == "gsva"
    del entries[0]["rejected"]
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=r"image0/0: it is not known whether \[REJ\] was said"):
        evaluate_command(settings, VAL, path, protocol="gsva")
    with pytest.raises(
        InputError, match=r"--protocol: found 'gress', expected lisa, .* or rris \(did you mean 'gres'\?\)"
    ):
        evaluate_command(settings, VAL, path, protocol="gress")


@pytest.mark.parametrize("gone", ["masks/sam", "match/sam/instances"])
def test_predictions_are_scored_before_there_are_proposals(
    ready: tuple[Settings, Known], tmp_path: Path, gone: str
) -> None:
    settings, known = ready
    shutil.rmtree(settings.store_path / "d" / gone / "val")
    path = tmp_path / "theirs.parquet"
    write(path, Meta("theirs", "d", "val"), answers(known))
    text, figures = evaluate_command(settings, VAL, path)
    assert list(figures["groups"]["all"]) == ["theirs", "always reject"]
    found = figures["groups"]["all"]["theirs"]
    assert {"miou_per_sample", "ciou", "n_acc", "elisa_ciou"} <= found.keys()
    assert "f1" not in found
    (line,) = (line for line in text.splitlines() if line.startswith("- Without proposals there are no rows"))
    assert all(name in line for name in BASELINE_NAMES if name != "always reject")
    assert gone in line
    shutil.rmtree(settings.store_path / "d" / "targets" / "val")
    with pytest.raises(StoreError, match="targets"):
        evaluate_command(settings, VAL, path)


def test_a_damaged_table_is_no_table_that_is_not_there(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    path = tmp_path / "theirs.parquet"
    write(path, Meta("theirs", "d", "val"), answers(known))
    (settings.store_path / "d/masks/sam/val/column.json").write_text("{")
    with pytest.raises(DamagedStoreError, match="masks"):
        evaluate_command(settings, VAL, path)


@pytest.mark.parametrize("name", ["largest mask", "upper bound of any union"])
def test_a_file_named_like_a_baseline(ready: tuple[Settings, Known], tmp_path: Path, name: str) -> None:
    settings, known = ready
    path = tmp_path / f"{name}.json"
    coco = [{"size": [4, 6], "counts": answer.segmentation} for answer in answers(known)]
    ids = [answer.target_id for answer in answers(known)]
    path.write_text(json.dumps([{"target_id": a, "segmentation": b} for a, b in zip(ids, coco, strict=True)]))
    _, figures = evaluate_command(settings, VAL, path)
    assert list(figures["groups"]["all"]) == [f"{name} (predictions)", *BASELINE_NAMES]
    assert figures["system"] == f"{name} (predictions)"


def test_systems_of_one_name_each_have_a_row(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    paths = [tmp_path / str(k) / "lisa.parquet" for k in range(4)]
    for path in paths:
        write(path, Meta("lisa", "d", "val"), answers(known))
    _, figures = evaluate_command(settings, VAL, paths[0], further=paths[1:])
    names = ["lisa", "lisa (predictions)", "lisa (2)", "lisa (3)"]
    assert [name for name in figures["groups"]["all"] if name.startswith("lisa")] == names


def test_every_baseline_s_name_is_taken() -> None:
    loaded = [(Meta(name, "d", "val"), []) for name in BASELINE_NAMES]
    assert [name for name, _, _ in with_names_of_their_own(loaded)] == [
        f"{name} (predictions)" for name in BASELINE_NAMES
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<b>x</b>", "\\<b>x\\</b>"),
        ("a\nb", "a b"),
        ("`x` *y* [z](w)", "\\`x\\` \\*y\\* \\[z](w)"),
        ("__init__", "\\_\\_init\\_\\_"),
        ("top1_or_iop", "top1_or_iop"),
        ("ü 鍵", "ü 鍵"),
        ("a\x1b[31m", "a\N{REPLACEMENT CHARACTER}\\[31m"),
    ],
)
def test_any_name_is_one_cell_that_shows_it(name: str, shown: str) -> None:
    assert as_text(name) == shown


def test_a_folder_of_any_name(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    folder = tmp_path / os.fsdecode(b"a|b\n<i>\xff")  # the last is no letter of any encoding here
    for answer in answers(known):
        path = folder / f"{answer.target_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rle.decode(answer.segmentation, 4, 6)).save(path)
    text, figures = evaluate_command(settings, VAL, folder)
    shown = "a\\|b \\<i>" + "\N{REPLACEMENT CHARACTER}"
    assert text.startswith(f"# {shown} on d, val\n")
    assert f"| {shown} |" in text
    text.encode()
    json.dumps(figures, allow_nan=False)


def test_what_a_file_or_folder_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ovseg.v2" / "val").mkdir(parents=True)
    (tmp_path / "blob-1234").write_text("[]")
    (tmp_path / "theirs.v2.json").symlink_to(tmp_path / "blob-1234")
    monkeypatch.chdir(tmp_path / "ovseg.v2" / "val")
    found = [
        name_of(path) for path in (Path(), Path(".."), tmp_path / "ovseg.v2", tmp_path / "theirs.v2.json", Path("/"))
    ]
    assert found == ["val", "ovseg.v2", "ovseg.v2", "theirs.v2", "predictions"]


def test_predictions_for_images_that_are_not_asked_about(empty: Any, tmp_path: Path) -> None:
    """In ours and in theirs alike: counted, named and not scored."""
    empty.configure(dataset="d", splits=["val", "other"], means={"tiny": {"train": ["val"]}}, embed__max_masks=16)
    settings = load_settings(empty.params)
    mask, nothing = rle.encode(np.ones((4, 6), bool)), rle.encode(np.zeros((4, 6), bool))
    images = {"images": write_images(empty.store, 3, failed={1: "truncated"})}
    fields = {"texts": ["?"], "is_sentence": True, "kind": "t", "answer": None, "segmentation": mask, "ignore": nothing}
    targets = [[{"target_id": "image0/0", "image_index": 0, "instances": [0], **fields}], [], []]
    write_table(empty.store, "d/targets/val", targets, images, failed={1: "truncated"})
    box = {"segmentation": [mask], "bbox": [[0, 0, 6, 4]], "area": [24], "label": ["target"]}
    bare = {name: [] for name in box}
    rows = [
        [{"image_index": k, "status": "failed" if k == 1 else "ok", "error": None, **(bare if k else box)}]
        for k in range(3)
    ]
    write_table(empty.store, "d/instances/val", rows, images, failed={1: "truncated"})
    names = ("image0/0", "image1/0", "image2/0")
    write(tmp_path / "a.parquet", Meta("a", "d", "val"), [Prediction(name, 0, mask, False) for name in names])
    coco = {"size": [4, 6], "counts": mask}
    (tmp_path / "a.json").write_text(json.dumps([{"target_id": name, "segmentation": coco} for name in names]))
    for name in ("a.parquet", "a.json"):
        text, figures = evaluate_command(settings, VAL, tmp_path / name)
        assert (figures["questions"], figures["unasked"]) == (1, 2)
        assert "n_acc" not in figures["groups"]["all"]["a"], "no image without targets is an empty target"
        assert "- 2 predictions for images without questions" in text
        assert "are not scored: image1, image2." in text
        assert "- Left out: image1: " in text


def test_candidates_are_those_that_are_embedded(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    image = next(k for k, masks in enumerate(known.masks) if len(masks) > 16)
    path = tmp_path / "ours.parquet"
    own = [
        Prediction(a.target_id, 0, None, False, (16,) * a.target_id.startswith(f"image{image}/"))
        for a in answers(known)
    ]
    write(path, Meta("s", "d", "val"), own)
    with pytest.raises(InputError, match="chose 16, which is not among the 16 candidates"):
        evaluate_command(settings, VAL, path, "error")


def test_missing_predictions_are_counted(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    path = tmp_path / "ours.parquet"
    write(path, Meta("s", "d", "val"), answers(known)[2:])
    with pytest.raises(InputError, match="2 of .* predictions are missing"):
        evaluate_command(settings, VAL, path, "error")
    text, figures = evaluate_command(settings, VAL, path, "empty")
    assert figures["missing"] == 2
    assert "2 of them had no prediction and count as rejected." in text


def test_published_rows_stand_below_their_split(
    ready: tuple[Settings, Known], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the small store's data set were ReasonSeg."""
    settings, known = ready
    monkeypatch.setattr(
        "pipeline.commands.evaluate.published", lambda dataset, *rest: published({"d": "ReasonSeg"}[dataset], *rest)
    )
    path = tmp_path / "ours.parquet"
    write(path, Meta("s", "d", "val"), answers(known))
    text, _ = evaluate_command(settings, VAL, path, "error")
    assert "| LISA-7B (published: LISA, arXiv 2308.00692, Table 1) | 44.4 | 46 |" in text
    assert "No published figures" not in text


def test_what_cannot_be_evaluated(ready: tuple[Settings, Known], tmp_path: Path) -> None:
    settings, known = ready
    path = tmp_path / "ours.parquet"
    write(path, Meta("s", "d", "test"), answers(known))
    with pytest.raises(InputError, match="predictions are for d/test, expected d/val"):
        evaluate_command(settings, VAL, path, "error")
    with pytest.raises(InputError, match="no such file or folder"):
        evaluate_command(settings, VAL, tmp_path / "nothing.json", "error")
    with pytest.raises(InputError, match="--split: found 'dev'"):
        settings.select("dev")
    with pytest.raises(InputError, match="--missing: found 'skip'"):
        evaluate_command(settings, VAL, path, "skip")
    with pytest.raises(StoreError, match="holds no indexed split"):
        evaluate_command(settings, SplitRef("d", "other"), path, "error")


def test_the_command_line(empty: Any, tmp_path: Path) -> None:
    empty.configure(dataset="d", splits=["val"], means={"tiny": {"train": ["val"]}}, embed__max_masks=16)
    known = full_store(empty.store)
    path = tmp_path / "theirs.json"
    coco = [{"size": [4, 6], "counts": answer.segmentation} for answer in answers(known)]
    ids = [answer.target_id for answer in answers(known)]
    entries = [{"target_id": a, "segmentation": b, "rejected": False} for a, b in zip(ids, coco, strict=True)]
    path.write_text(json.dumps(entries))
    done = empty.run("evaluate", "--predictions", str(path), "--split", "val", "--protocol", "gsva", "--json")
    assert done.code == 0
    assert json.loads(done.out)["groups"]["all"]["theirs"]["gsva_n_acc"]["value"] == 0
    for wrong, why in (
        (["--predictions", str(path), "--threshold", "9"], "--threshold is for a folder of PNGs"),
        (["--predictions", str(path), "--threshold", "0.5"], "--threshold: found 0.5, expected a whole number"),
        (["--predictions", str(path), "--protocol", "lissa"], "--protocol: found 'lissa', expected lisa, per_text"),
        (["--system", "elisa", "--threshold", "9"], "found --threshold with --system"),
        (
            ["--system", "elisa", "--protocol", "lissa"],
            "--protocol: found 'lissa', expected lisa, per_text",
        ),  # before it answers
    ):
        done = empty.run("evaluate", "--split", "val", *wrong)
        assert (done.code, why in done.err) == (2, True), done.err


def test_evaluation_imports_no_torch() -> None:
    code = "import sys, pipeline.commands.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
