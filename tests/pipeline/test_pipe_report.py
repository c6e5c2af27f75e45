"""``report``: what is there is shown, what is not is said, whatever the split lacks."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store
from PIL import Image

from pipeline.config import Settings, load_settings
from pipeline.evaluate import evaluate_command
from pipeline.report import SYSTEMS, report_command
from stages.evaluate import Meta, Prediction, write
from store import open_split, rle

ROOT = Path(__file__).resolve().parents[2]


def text_of(page: Path) -> str:
    """What a reader sees, in one line."""
    body = page.read_text(encoding="utf-8").partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def predictions(project: Any, system: str, split: str, answers: list[Prediction]) -> Path:
    path = (
        Path(project.values["run"]["train_dir"]) / project.values["dataset"] / system / f"predictions/{split}.parquet"
    )
    write(path, Meta(system, project.values["dataset"], split), answers)
    return path


@pytest.fixture
def ready(empty: Any) -> tuple[Any, Settings, Known]:
    """A project whose store holds ``d/val``: several targets an image, empty ones, ignored pixels; and no image file."""
    empty.configure(dataset="d", splits=["val"], normalize__train=["val"], masks__max_masks=16)
    return empty, load_settings(empty.params), full_store(empty.store)


def test_without_systems_it_shows_what_there_is_and_says_the_rest(finished: Any) -> None:
    done = finished.run("report", "--split", "val")
    assert done.code == 0, done.err
    folder = finished.folder / "report"
    found = text_of(folder / "val.html")
    for words in (
        "the fox that waits",
        "the gnu that waits",
        "the hen that waits",
        "Ground truth",
        "Proposals",
        "AR@1",
    ):
        assert words in found
    for system in SYSTEMS:
        line = f"not trained; run: python cli.py train --system {system} && python cli.py evaluate --system {system} --split val"
        assert f"{system} : {line}" in found
        assert f"{system}: {line}" in done.out
    assert "demo_alphaclip" in (folder / "val.html").read_text()
    names = {path.name for path in (folder / "pictures/val").iterdir()}
    assert names == {f"00{k}-{what}.png" for k in (1, 2, 3) for what in ("truth", "proposals")} | {
        "recall.png",
        "iou.png",
    }
    with Image.open(folder / "pictures/val/001-truth.png") as picture:
        assert picture.size == (256, 192)  # 64 x 48, four times as large
    assert "64 x 48 px, enlarged to 256 x 192" in found


def test_the_same_inputs_give_the_same_bytes_and_old_pictures_go(finished: Any) -> None:
    def contents() -> dict[str, bytes]:
        files = (finished.folder / "report").rglob("*")
        return {path.name: path.read_bytes() for path in files if path.suffix in (".html", ".png")}

    assert finished.run("report", "--split", "val").code == 0
    first = contents()
    (finished.folder / "report/pictures/val/009-old.png").write_bytes(b"old")
    assert finished.run("report", "--split", "val").code == 0
    assert contents() == first


def test_ious_are_those_of_the_evaluation(ready: tuple[Any, Settings, Known]) -> None:
    project, settings, known = ready
    rng = np.random.default_rng(0)
    ids = [target["target_id"] for targets in known.targets for target in targets]
    answers = [
        Prediction(name, 0, None, True, answer="[REJ]")
        if k % 3 == 0
        else Prediction(name, 0, rle.encode(rng.random((4, 6)) < 0.5), False, answer="[SEG]")
        for k, name in enumerate(ids)
    ]
    path = predictions(project, "lisa", "val", answers)
    _, figures = evaluate_command(settings, "val", path)
    report_command(settings, "val", cases=10**6)
    page = ROOT / settings.run.report_dir / "val.html"
    shown = [float(value) for value in re.findall(r"<span>IoU ([0-9.]+)</span>", page.read_text())]
    assert len(shown) == len(ids)
    mean = figures["groups"]["all"]["lisa"]["miou_per_sample"]["value"]
    assert np.mean(shown) == pytest.approx(mean, abs=1e-3)
    found = text_of(page)
    assert f"{100 * mean:.1f} [" in found
    assert found.count("refused: nothing of the kind is there") == -(-len(ids) // 3)
    assert "nothing in the image answers" in found
    assert "striped pixels do not count" in found
    assert "val/image0.jpg: " in found  # the reason why a picture is not shown


def test_chosen_masks_are_drawn_with_their_numbers(ready: tuple[Any, Settings, Known]) -> None:
    project, settings, known = ready
    image = next(k for k, masks in enumerate(known.masks) if len(masks) > 3)
    chosen = rle.union([rle.encode(known.masks[image][k]) for k in (1, 3)], 4, 6)
    ids = [target["target_id"] for targets in known.targets for target in targets]
    answers = [
        Prediction(name, 0, chosen, False, (3, 1), "<3><1>")
        if name == f"image{image}/0"
        else Prediction(name, 0, None, False, ())
        for name in ids
    ]
    predictions(project, "elisa", "val", answers)
    report_command(settings, "val", cases=10**6)
    found = text_of(ROOT / settings.run.report_dir / "val.html")
    assert found.count("chose 1, 3") == 1
    assert found.count("chose nothing") == len(ids) - 1
    assert "says <3><1>" in found


def test_answers_that_do_not_fit_the_store_are_said_and_missing_ones_counted(
    ready: tuple[Any, Settings, Known],
) -> None:
    project, settings, known = ready
    predictions(project, "lisa", "val", [Prediction("no such target", 0, None, True)])
    (first,) = known.targets[0][:1]
    predictions(project, "elisa", "val", [Prediction(first["target_id"], 0, None, True)])
    out = report_command(settings, "val", cases=2)
    assert "lisa: its answers do not fit the store: 1 predictions are for no question of the split" in out
    asked = sum(len(targets) for targets in known.targets)
    assert f"elisa: no answers to {asked - 1} questions, which count as refused" in out
    assert "1 systems" in out


def test_failed_images_are_listed_and_a_file_that_has_gone_is_said(finished: Any) -> None:
    (finished.data / "val/gnu.png").write_bytes(b"no picture")
    finished.configure(run__max_failures=9)
    finished.build("index --split val", "extract --split val")
    (finished.data / "val/fox.jpg").rename(finished.data / "val/moved")
    assert finished.run("report", "--split", "val").code == 0
    found = text_of(finished.folder / "report/val.html")
    assert "gnu images no readable header" in found
    assert "The image is not shown: val/fox.jpg: no such file" in found
    assert "the hen that waits" in found


def test_before_the_masks_there_are_the_questions(tiny: Any) -> None:
    tiny.build("index")
    done = tiny.run("report", "--split", "val", "--cases", "2", "--out", str(tiny.folder / "elsewhere"))
    assert done.code == 0, done.err
    found = text_of(tiny.folder / "elsewhere/val.html")
    assert "python cli.py extract --split val" in found
    assert found.count("Ground truth") == 2
    assert "AR@" not in found


def test_usage(finished: Any, empty: Any) -> None:
    assert finished.run("report", "--split", "dev").code == 2
    assert finished.run("report", "--split", "val", "--cases", "0").code == 2
    (finished.folder / "report/similarity/val-demo_sam.png").unlink()
    out = finished.run("report", "--split", "val", "--cases", "1").out
    assert "not there: similarity of demo_sam: not drawn; run: python cli.py normalize" in out


def test_training_curves_are_drawn_of_what_dvclive_left(finished: Any) -> None:
    folder = finished.folder / "trained/tiny/elisa/curves/plots/metrics"
    folder.mkdir(parents=True)
    (folder / "loss.tsv").write_text("step\tloss\n10\t2.5\n20\t1.25\n30\t")
    done = finished.run("report", "--split", "val", "--cases", "1")
    assert (finished.folder / "report/pictures/val/training.png").is_file()
    assert "elisa ends at 1.25" in (finished.folder / "report/val.html").read_text()
    assert "training curves of lisa" in done.out
    assert "training curves of elisa" not in done.out


def test_it_knows_the_systems_that_train_knows_and_imports_no_torch() -> None:
    code = "import sys, pipeline.report; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout == b"False\n"
    from stages.train.run import SYSTEMS as TRAINED

    assert tuple(TRAINED) == SYSTEMS


def test_a_damaged_store_is_no_page(finished: Any) -> None:
    (shard, *_) = sorted((finished.store / "tiny/val/masks").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    assert finished.run("report", "--split", "val").code == 4
    assert not (finished.folder / "report/val.html").exists()
    assert open_split(finished.store, "tiny", "val", columns=["images"])
    assert json.loads(finished.run("info", "--json").out)
