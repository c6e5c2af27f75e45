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

from pipeline.commands.evaluate import evaluate_command
from pipeline.commands.report import report_command
from pipeline.config import Settings
from pipeline.params_file import load_settings
from stages.evaluate import Meta, Prediction, write
from stages.report.written import LIST
from stages.train.run_digest import answering, identity, run_digest
from stages.train.systems import SYSTEMS
from store import open_split, rle

ROOT = Path(__file__).resolve().parents[2]


def text_of(page: Path) -> str:
    """What a reader sees, in one line."""
    body = page.read_text(encoding="utf-8").partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def run_of(project: Any, system: str) -> Path:
    """The folder of a finished run of the project's parameters, without a model."""
    settings = load_settings(project.params)
    folder = Path(settings.run.train_dir) / system
    folder.mkdir(parents=True, exist_ok=True)
    about = identity(settings.train, system, {})
    (folder / "run.json").write_text(json.dumps({**about, "history": [{"loss": 1.0, "step": 7}]}))
    return folder


def predictions(project: Any, system: str, split: str, answers: list[Prediction], **meta: str) -> Path:
    settings = load_settings(project.params)
    path = run_of(project, system) / f"predictions/{settings.splits[0].dataset}/{split}.parquet"
    about = {
        "run": run_digest(identity(settings.train, system, {})),
        "answering": json.dumps(answering(settings.train, system)),
        **meta,
    }
    write(path, Meta(system, settings.splits[0].dataset, split, **about), answers)
    return path


@pytest.fixture
def ready(empty: Any) -> tuple[Any, Settings, Known]:
    """A project whose store holds ``d/val``: several targets per image, empty ones, ignored pixels; and no image file."""
    empty.configure(dataset="d", splits=["val"], means={"tiny": {"train": ["val"]}}, embed__max_masks=16)
    return empty, load_settings(empty.params), full_store(empty.store)


def test_without_systems_it_shows_what_there_is_and_says_the_rest(finished: Any) -> None:
    done = finished.run("report", "--split", "val")
    assert done.code == 0, done.err
    folder = finished.folder / "report/tiny"
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
        typed = f"python cli.py --params {finished.params}"
        line = f"not trained; run: {typed} train --system {system} && {typed} evaluate --system {system} --split val"
        assert f"{system} : {line}" in found
        assert f"{system}: {line}" in done.out
    assert "demo_alphaclip" in (folder / "val.html").read_text()
    names = {path.name for path in (folder / "pictures/val").iterdir()} - {LIST}
    assert names == {f"00{k}-{what}.png" for k in (1, 2, 3) for what in ("truth", "proposals")} | {
        "recall.png",
        "iou.png",
    }
    with Image.open(folder / "pictures/val/001-truth.png") as picture:
        assert picture.size == (256, 192)  # 64 x 48, four times as large
    assert "64 x 48 px, enlarged to 256 x 192" in found


def test_the_same_inputs_give_the_same_bytes_and_what_others_wrote_stays(finished: Any) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    folder = finished.folder / "elsewhere/tiny"
    words = ("report", "--split", "val", "--out", str(folder.parent))
    assert finished.run(*words).code == 0
    first = contents()
    assert finished.run(*words).code == 0
    assert contents() == first
    mine = folder / "pictures/val/mine.png"
    mine.write_bytes(b"mine")
    edited = folder / "pictures/val/003-truth.png"
    edited.write_bytes(edited.read_bytes() + b"marked")
    assert finished.run(*words, "--cases", "1").code == 0
    names = {path.name for path in mine.parent.iterdir()}
    assert names == {"001-truth.png", "001-proposals.png", "recall.png", "iou.png", LIST, "mine.png", "003-truth.png"}
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["val.html", "pictures/val/001-truth.png"])
def test_a_file_of_somebody_else_is_not_replaced(finished: Any, name: str) -> None:
    path = finished.folder / "elsewhere/tiny" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    done = finished.run("report", "--split", "val", "--out", str(finished.folder / "elsewhere"))
    assert done.code == 2
    assert f"{path}: exists, and is not as a report wrote it; move it, or give another folder with --out" in done.err
    assert path.read_bytes() == b"mine"
    assert [one for one in path.parent.iterdir() if one.is_file()] == [path]


def test_a_report_that_was_stopped_is_written_over(finished: Any) -> None:
    folder = finished.folder / "report/tiny/pictures/val"
    assert finished.run("report", "--split", "val", "--cases", "1").code == 0
    listed = json.loads((folder / LIST).read_text())
    assert finished.run("report", "--split", "val").code == 0
    (folder / "003-truth.png").unlink()
    (folder / LIST).write_text(json.dumps(json.loads((folder / LIST).read_text()) | listed))
    assert finished.run("report", "--split", "val").code == 0
    assert (folder / "003-truth.png").is_file()


@pytest.mark.parametrize("text", ["[]", "null", '{"iou.png": 3}', "{", ""])
def test_a_list_that_is_none_says_nothing(finished: Any, text: str) -> None:
    folder = finished.folder / "report/tiny/pictures/val"
    folder.mkdir(parents=True)
    (folder / LIST).write_text(text)
    (folder / "recall.png").write_bytes(b"mine")
    done = finished.run("report", "--split", "val")
    assert done.code == 2
    assert "recall.png: exists, and is not as a report wrote it" in done.err
    (folder / "recall.png").unlink()
    assert finished.run("report", "--split", "val").code == 0


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
    _, figures = evaluate_command(settings, settings.select("val")[0], path)
    report_command(settings, settings.select("val")[0], cases=10**6)
    page = ROOT / settings.run.report_dir / "d/val.html"
    shown = [float(value) for value in re.findall(r"<span>IoU ([0-9.]+)</span>", page.read_text())]
    assert len(shown) == len(ids)
    mean = figures["groups"]["all"]["lisa"]["miou_per_sample"]["value"]
    assert np.mean(shown) == pytest.approx(mean, abs=1e-3)
    found = text_of(page)
    assert f"{100 * mean:.1f} [" in found
    assert found.count("refused: nothing of the kind is there") == -(-len(ids) // 3)
    assert "nothing of the kind is in the image" in found
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
    report_command(settings, settings.select("val")[0], cases=10**6)
    found = text_of(ROOT / settings.run.report_dir / "d/val.html")
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
    out = report_command(settings, settings.select("val")[0], cases=2)
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
    found = text_of(finished.folder / "report/tiny/val.html")
    assert "gnu images no readable header" in found
    assert "The image is not shown: val/fox.jpg: no such file" in found
    assert "the hen that waits" in found


def test_before_the_masks_there_are_the_questions(tiny: Any) -> None:
    tiny.build("index")
    done = tiny.run("report", "--split", "val", "--cases", "2", "--out", str(tiny.folder / "elsewhere"))
    assert done.code == 0, done.err
    found = text_of(tiny.folder / "elsewhere/tiny/val.html")
    assert f"python cli.py --params {tiny.params} extract --split val" in found
    assert found.count("Ground truth") == 2
    assert "AR@" not in found


def test_usage(finished: Any, empty: Any) -> None:
    assert finished.run("report", "--split", "dev").code == 2
    assert finished.run("report", "--split", "val", "--cases", "0").code == 2
    (finished.folder / "report/tiny/similarity/tiny/val-sam-demo_sam.png").unlink()
    out = finished.run("report", "--split", "val", "--cases", "1").out
    assert "not there: similarity of sam/demo_sam: not drawn; run: python cli.py --params " in out


def test_external_predictions_are_a_column_and_every_question_is_reachable(ready: tuple[Any, Settings, Known]) -> None:
    project, settings, known = ready
    ids = [target["target_id"] for targets in known.targets for target in targets]
    predictions(project, "elisa", "val", refusals(known))
    path = project.folder / "from_them.json"
    path.write_text(json.dumps([{"target_id": name, "segmentation": None} for name in ids[:-1]]))
    done = project.run(
        "evaluate", "--predictions", str(path), "--split", "val", "--missing", "empty", "--keep", "theirs"
    )
    assert done.code == 0, done.err
    out = report_command(settings, settings.select("val")[0], cases=1)
    assert "2 systems" in out
    assert "theirs: no answers to 1 questions, which count as refused" in out
    page = (ROOT / settings.run.report_dir / "d/val.html").read_text()
    table = page.partition('id="every"')[2].partition("</table>")[0]
    heading = re.findall(r'<th scope="col">([^<]*)</th>', table)
    assert heading == ["question", "text", "elisa", "theirs", "oracle best mask, sam"]
    rows = [re.sub("<[^>]*>", "", row) for row in re.findall(r"<tr><td>(.*?)</td>", table)]
    assert rows == ids
    assert 'href="#question-1"' in table
    foot = page.partition('id="parameters"')[2]
    digest = run_digest(identity(settings.train, "elisa", {}))
    assert f"run elisa: sha256 {digest}" in foot
    assert "external theirs: sha256 " in foot
    assert "from_them.json" in foot
    assert "columns of d/val" in foot
    (project.folder / "trained/theirs/predictions/d/val.parquet").write_bytes(b"damaged")
    out = report_command(settings, settings.select("val")[0], cases=1)
    assert "theirs: its predictions do not fit the store: " in out


def curves(folder: Path, digest: str) -> None:
    tables = folder / "curves/plots/metrics"
    tables.mkdir(parents=True)
    (tables / "loss.tsv").write_text("step\tloss\n10\t2.5\n20\t1.25\n30\t")
    (folder / "curves/run.json").write_text(json.dumps({"digest": digest}))


def test_training_curves_are_drawn_of_what_dvclive_left(finished: Any) -> None:
    train = load_settings(finished.params).train
    folder = run_of(finished, "elisa")
    curves(folder, run_digest(identity(train, "elisa", {})))
    curves(run_of(finished, "lisa"), "0" * 64)
    done = finished.run("report", "--split", "val", "--cases", "1")
    assert (finished.folder / "report/tiny/pictures/val/training.png").is_file()
    page = (finished.folder / "report/tiny/val.html").read_text()
    assert "elisa ends at 1.25" in page
    assert "lisa ends at 1.25" not in page.replace("elisa", "")
    assert "training curves of lisa: left out: of run 000000000000, not " in done.out
    assert "training curves of elisa" not in done.out


def refusals(known: Known) -> list[Prediction]:
    return [Prediction(target["target_id"], 0, None, True) for targets in known.targets for target in targets]


def test_only_what_belongs_to_the_current_runs_is_shown(ready: tuple[Any, Settings, Known]) -> None:
    """Each kind of answer that is not the current model's is left out, with the reason and a command."""
    project, settings, known = ready
    folder = ROOT / settings.run.train_dir
    predictions(project, "elisa", "val", refusals(known))
    assert "1 systems" in report_command(settings, settings.select("val")[0], cases=1)
    page = text_of(ROOT / settings.run.report_dir / "d/val.html")
    digest = run_digest(identity(settings.train, "elisa", {}))[:12]
    assert f"elisa elisa {digest} 7 as section train" in page

    for meta, words in (
        ({"run": "0" * 64}, "its answers are left out (answers of run 000000000000, the model is "),
        ({"run": ""}, "its answers are left out (answers of run unknown, the model is "),
        ({"answering": "{}"}, "its answers are left out (train.elisa.max_new_tokens: None -> "),
        (
            {"columns": json.dumps({"d/masks/sam/val": "0" * 64})},
            "its answers are left out (d/masks/sam/val changed since); run: python",
        ),
    ):
        predictions(project, "elisa", "val", refusals(known), **meta)
        out = report_command(settings, settings.select("val")[0], cases=1)
        assert "0 systems" in out
        assert f"not there: elisa: {words}" in out

    # Another model than the parameters ask for; a model of other data; a run that is not finished; a file from nowhere.
    predictions(project, "elisa", "val", refusals(known))
    out = report_command(load_settings(project.params, ["train.seed=5"]), settings.select("val")[0], cases=1)
    assert "0 systems" in out
    assert "elisa: left out: run " in out
    assert "is not the current one (train.seed: 0 -> 5); run: python cli.py" in out
    about = json.loads((folder / "elisa/run.json").read_text())
    (folder / "elisa/run.json").write_text(json.dumps({**about, "columns": {"d/masks/sam/val": "0" * 64}}))
    out = report_command(settings, settings.select("val")[0], cases=1)
    assert "is not the current one (data in d/masks/sam/val changed); run: " in out
    (folder / "elisa/checkpoints").mkdir()
    (folder / "elisa/run.json").rename(folder / "elisa/checkpoints/run.json")
    (folder / "elisa/checkpoints/run.json").write_text(json.dumps(about))
    out = report_command(settings, settings.select("val")[0], cases=1)
    assert "0 systems" in out
    assert "elisa: unfinished: an unfinished run (nothing is kept yet) " in out
    (folder / "elisa/checkpoints/run.json").unlink()
    assert "answers and curves of an unknown run in its folder are left out" in report_command(
        settings, settings.select("val")[0], cases=1
    )


def test_a_run_of_a_free_name_is_shown_with_its_parameters_and_one_moved_aside_is_not(
    ready: tuple[Any, Settings, Known],
) -> None:
    project, settings, known = ready
    folder = ROOT / settings.run.train_dir
    predictions(project, "elisa", "val", refusals(known))
    digest = run_digest(identity(settings.train, "elisa", {}))
    (folder / "elisa").rename(folder / "mine")
    other = load_settings(project.params, ["train.seed=5"])
    out = report_command(other, other.select("val")[0], cases=1)
    assert "1 systems" in out
    assert f"mine elisa {digest[:12]} 7 train.seed: 5 -> 0" in text_of(ROOT / settings.run.report_dir / "d/val.html")
    # What there is to type is about that run, not about the one of the current parameters.
    options = f"--params {project.params} --set train.seed=5 --set train.seed=0"
    answers = folder / "mine/predictions/d/val.parquet"
    kept = answers.read_bytes()
    answers.unlink()
    asks = f"python cli.py {options} evaluate --system elisa --name mine --split val"
    assert f"mine: has not answered this split; run: {asks}" in report_command(other, other.select("val")[0], cases=1)
    (folder / "mine/checkpoints").mkdir()
    record = (folder / "mine/run.json").rename(folder / "mine/checkpoints/run.json")
    trains = f"python cli.py {options} train --system elisa --name mine && {asks}"
    assert re.search(
        f"mine: unfinished: .*; run: {re.escape(trains)}", report_command(other, other.select("val")[0], cases=1)
    )
    record.rename(folder / "mine/run.json")
    answers.write_bytes(kept)

    (folder / "mine").rename(folder / f"elisa-{digest[:12]}")
    out = report_command(other, other.select("val")[0], cases=1)
    assert "0 systems" in out
    assert f"elisa-{digest[:12]}: left out: it was moved aside by a training" in out


def test_two_data_sets_share_no_file(finished: Any) -> None:
    """The same splits in one report folder: pages, pictures, metrics and heat maps are kept apart."""

    def contents() -> dict[str, bytes]:
        folder = finished.folder / "report"
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        found.pop("metrics/means.json")  # of all data sets of a params file
        return found

    assert finished.run("report", "--split", "val").code == 0
    before = contents()
    assert before
    assert all(name.startswith("tiny/") or "/tiny/" in name for name in before)
    finished.configure(dataset="other", means={"other": {"train": ["train"]}}, proposers__sam__points_per_side=1)
    finished.build("index", "extract", "normalize")
    assert finished.run("report", "--split", "val").code == 0
    after = contents()
    assert {name: data for name, data in after.items() if name in before} == before
    assert {name.partition("/")[2] for name in after if name.startswith("other/")} >= {
        "val.html", "normalize.json", "similarity/other/val-sam-demo_sam.png",
    }  # fmt: skip


def test_heat_maps_of_other_embeddings_are_left_out(finished: Any) -> None:
    kept = (finished.folder / "report/tiny/similarity/tiny/val-sam-demo_sam.png").read_bytes()
    finished.build("index --split val")
    finished.configure(proposers__sam__points_per_side=1)
    finished.build("extract --replace")
    out = finished.run("report", "--split", "val", "--cases", "1").out
    for encoder in ("demo_sam", "demo_alphaclip"):
        assert (
            f"similarity of sam/{encoder}: left out: drawn from other embeddings, or with another mean, than the store has now"
            in out
        )
    assert (finished.folder / "report/tiny/similarity/tiny/val-sam-demo_sam.png").read_bytes() == kept
    finished.build("normalize")
    assert "similarity of" not in finished.run("report", "--split", "val", "--cases", "1").out


def test_it_imports_no_torch() -> None:
    code = "import sys, pipeline.commands.report; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True).stdout == b"False\n"


def test_a_damaged_store_is_no_page(finished: Any) -> None:
    (shard, *_) = sorted((finished.store / "tiny/masks/sam/val").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    assert finished.run("report", "--split", "val").code == 4
    assert not (finished.folder / "report/tiny/val.html").exists()
    assert open_split(finished.store, "tiny", "val", columns=["images"])
    assert json.loads(finished.run("info", "--json").out)
