"""``compare`` and ``figure``: what is shared is compared, what differs is said, and what is lacking comes with what to type."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering import answers_of, guesses, run_of
from factory import Known, full_store
from PIL import Image

from pipeline.params_file import load_settings
from stages.evaluate import read, score
from stages.evaluate.metrics import METRICS, value
from store import open_split, rle

SMALL = {"dataset": "d", "splits": ["val"], "means": {"tiny": {"train": ["val"]}}, "embed__max_masks": 16}


def ids(known: Known) -> list[str]:
    return [target["target_id"] for targets in known.targets for target in targets]


def theirs(path: Path, known: Known, seed: int = 5) -> Path:
    entries = [
        {"target_id": one.target_id, "segmentation": one.segmentation and {"size": [4, 6], "counts": one.segmentation}}
        for one in guesses(ids(known), seed)
    ]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def ready(empty: Any) -> tuple[Any, Known]:
    """``d/val``, answered by ``elisa`` and ``lisa``."""
    empty.configure(**SMALL)
    known = full_store(empty.store)
    for seed, name in enumerate(("elisa", "lisa")):
        run_of(empty, name)
        answers_of(empty, name, "d/val", guesses(ids(known), seed))
    return empty, known


def test_differences_are_those_of_the_evaluation(ready: tuple[Any, Known]) -> None:
    project, known = ready
    found = project.run("compare", "elisa", "lisa", "--json").json()
    split = open_split(known.store, "d", "val")
    samples = [
        score(split, read(project.folder / f"trained/{name}/predictions/d/val.parquet")[1]).systems["predictions"]
        for name in ("elisa", "lisa")
    ]
    own = found["differences"]["lisa"]
    for name in ("miou_per_sample", "ciou", "n_acc", "elisa_giou"):
        first, other = (value(METRICS[name](one)) for one in samples)
        shown = own[name]
        assert (shown["first"], shown["other"], shown["gain"]) == pytest.approx((first, other, other - first), abs=1e-6)
        assert shown["low"] <= shown["gain"] <= shown["high"]
    gain = samples[1].iou - samples[0].iou
    counts = found["changes"]["lisa"]
    assert (counts["won"], counts["lost"], counts["alike"]) == ((gain > 0).sum(), (gain < 0).sum(), (gain == 0).sum())
    best = counts["most_won"][0]
    assert best["target_id"] == ids(known)[int(np.argmax(gain))]
    assert best["iou"]["lisa"] - best["iou"]["elisa"] == pytest.approx(gain.max(), abs=1e-5)
    assert (found["questions"], found["images"]) == (len(ids(known)), len(known.masks))
    assert [run["name"] for run in found["runs"]] == ["elisa", "lisa"]
    assert len(found["runs"][0]["digest"]) == 64
    assert set(found["groups"]["lisa"]) >= {"length", "existence"}


def test_the_tables_say_the_same(ready: tuple[Any, Known]) -> None:
    project, _ = ready
    done = project.run("compare", "elisa", "lisa", "--cases", "1")
    assert done.code == 0, done.err
    found = project.run("compare", "elisa", "lisa", "--json").json()
    gain = found["differences"]["lisa"]["miou_per_sample"]["gain"]
    assert f"\n| lisa minus elisa | {100 * gain:+.1f} [" in done.out
    assert f"lisa has the higher IoU in {found['changes']['lisa']['won']}, elisa in" in done.out
    counts = found["changes"]["lisa"]
    assert done.out.count("| which ") == min(1, counts["won"]) + min(1, counts["lost"])
    assert "| existence: Empty targets |" in done.out
    assert "# lisa compared with elisa on d/val" in done.out


def test_what_is_not_shared_is_left_out_and_said(ready: tuple[Any, Known]) -> None:
    project, known = ready
    answers_of(project, "lisa", "d/val", guesses([*ids(known)[:-3], "gone/0"], 1), mode="teacher_forced")
    whole = project.run("compare", "elisa", "lisa", "--json").json()
    assert whole["questions"] == len(ids(known)) - 3
    notes = "\n".join(whole["notes"])
    assert f"{len(ids(known)) - 3} of {len(ids(known))} questions are compared, those that all have answered" in notes
    assert "lisa: 1 answers are to no question of the split, and are left out." in notes
    assert "elisa generated, lisa teacher_forced" in notes
    # The same as if the first had answered no more than these.
    answers_of(project, "elisa", "d/val", guesses(ids(known), 0)[:-3])
    assert project.run("compare", "elisa", "lisa", "--json").json()["differences"] == whole["differences"]
    answers_of(project, "lisa", "d/val", guesses(["gone/0"], 1))
    done = project.run("compare", "elisa", "lisa")
    assert done.code == 2
    assert "there is no question of d/val that all of them have answered: elisa has answered" in done.err


def test_runs_that_differ_in_parameters_or_data_say_so(ready: tuple[Any, Known]) -> None:
    project, known = ready
    run_of(project, "mine", "elisa", ["train.seed=5"], columns={"d/targets/val": "0" * 64})
    columns = json.dumps({"d/targets/val": "1" * 64})
    answers_of(project, "mine", "d/val", guesses(ids(known), 3), answering='{"elisa.beams": 9}', columns=columns)
    notes = "\n".join(project.run("compare", "elisa", "mine", "--json").json()["notes"])
    assert "mine differs from elisa: train.seed: 0 -> 5; data in d/targets/val:" in notes
    assert "train.elisa.beams, which decides how they answer, differs: elisa " in notes
    assert "mine: trained on d/val, which is compared here." in notes
    assert "trained on different data: elisa d/train, mine d/val" in notes or "trained on different data" in notes
    assert (
        "mine is out of date (data in d/targets/val changed; d/targets/val changed since); run: python cli.py" in notes
    )


def test_several_runs_and_predictions_of_others(ready: tuple[Any, Known]) -> None:
    project, known = ready
    path = theirs(project.folder / "theirs_v2.json", known)
    found = project.run("compare", "elisa", "lisa", str(path), "--json").json()
    assert list(found["differences"]) == ["lisa", "theirs_v2"]
    assert "theirs_v2: external predictions; only their makers know what was asked" in found["notes"][-1]
    kept = project.run("evaluate", "--predictions", str(path), "--split", "val", "--keep", "theirs")
    assert kept.code == 0, kept.err
    path.unlink()
    again = project.run("compare", "elisa", "theirs", "--json").json()
    assert again["differences"]["theirs"] == found["differences"]["theirs_v2"]
    assert again["runs"][1]["system"] is None
    parquet = project.folder / "trained/lisa/predictions/d/val.parquet"
    same = project.run("compare", "elisa", str(parquet), "lisa", "--json").json()
    assert list(same["differences"]) == ["lisa (predictions)", "lisa"]
    assert same["differences"]["lisa"] == same["differences"]["lisa (predictions)"]


def test_a_protocol_has_its_own_figures(ready: tuple[Any, Known]) -> None:
    project, _ = ready
    found = project.run("compare", "elisa", "lisa", "--protocol", "rris", "--json").json()
    assert list(found["differences"]["lisa"]) == ["rris_ref_miou", "rris_ref_oiou", "rris_r", "rris_riou"]
    done = project.run("compare", "elisa", "lisa", "--protocol", "lisa", "--page", str(project.folder / "page.html"))
    assert done.code == 0, done.err
    assert "protocol lisa" in done.out
    done = project.run("compare", "elisa", "lisa", "--protocol", "liza")
    assert done.code == 2
    assert "did you mean 'lisa'" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found 0 runs, expected two or more; there are elisa, lisa; python cli.py"),
        (["elisa"], "found 1 run, expected two or more"),
        (["elisa", "elisa"], "found 'elisa' twice"),
        (["elisa", "lsa"], "folder of predictions (did you mean 'lisa'?); there are elisa, lisa; python cli.py"),
        (["elisa", "llmseg"], "llmseg is not trained; run: python cli.py"),
        (["elisa", "lisa", "--split", "test"], "--split: found 'test', expected one of val"),
        (["elisa", "lisa", "--page", "x.png"], "--page: found 'x.png', expected the name of a file that ends in .html"),
        (["elisa", "lisa", "--cases", "0"], "--cases"),
        (["elisa", "lisa", "--threshold", "9"], "found --threshold, which is for a folder of PNGs"),
    ],
)
def test_usage(ready: tuple[Any, Known], words: list[str], said: str) -> None:
    done = ready[0].run("compare", *words)
    assert done.code == 2
    assert said in done.err


def test_a_run_that_was_not_evaluated_is_told_what_to_type(ready: tuple[Any, Known]) -> None:
    project, known = ready
    (project.folder / "trained/lisa/predictions/d/val.parquet").unlink()
    done = project.run("compare", "elisa", "lisa")
    assert done.code == 2
    typed = re.search(r"d/val: answered by elisa; lisa has not; run: (python cli\.py .*)", done.err)
    assert typed
    assert shlex.split(typed[1])[-5:] == ["evaluate", "--system", "lisa", "--split", "val"]
    (project.folder / "trained/elisa/predictions/d/val.parquet").unlink()
    done = project.run("compare", "elisa", "lisa")
    assert done.code == 2
    assert done.err.count("has not answered d/val; run: python cli.py") == 2
    (project.folder / "bad.json").write_text('[{"target_id": "nope", "segmentation": null}]')
    (project.folder / "bad.parquet").write_text("no parquet")
    for name, words in (("bad.json", "no target 'nope'"), ("bad.parquet", "not a Parquet file of predictions")):
        done = project.run("compare", str(theirs(project.folder / "a.json", known)), str(project.folder / name))
        assert done.code == 2, done.err
        assert words in done.err


def test_an_unfinished_run_and_one_without_a_record(ready: tuple[Any, Known]) -> None:
    project, _ = ready
    folder = project.folder / "trained/lisa"
    (folder / "checkpoints").mkdir()
    (folder / "run.json").rename(folder / "checkpoints/run.json")
    done = project.run("compare", "elisa", "lisa")
    assert done.code == 2
    assert "lisa is an unfinished run (nothing is kept yet)" in done.err
    (folder / "checkpoints/run.json").write_text("{")
    assert "nothing in the folder of lisa says which run it is" in project.run("compare", "elisa", "lisa").err


@pytest.fixture(scope="module")
def pictured(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny data set with photographs, whose ``val`` two runs and one other have answered. Read only, but for new files."""
    project = finished_once.copy(tmp_path_factory.mktemp("pictured"))
    split = open_split(project.store, "tiny", "val")
    names = {target["target_id"]: record for record in split for target in record.targets}
    for seed, name in enumerate(("elisa", "lisa")):
        run_of(project, name)
        given = [
            one
            for target, record in names.items()
            for one in guesses([target], seed + 10 * record.image_index, (record.height_px, record.width_px))
        ]
        answers_of(project, name, "tiny/val", given)
    first = next(iter(names))
    record = names[first]
    whole = np.ones((record.height_px, record.width_px), bool)
    entry = {"size": [record.height_px, record.width_px], "counts": rle.encode(whole)}
    entries = [{"target_id": name, "segmentation": entry} for name in names]
    (project.folder / "truth.json").write_text(json.dumps(entries))
    return project


def test_a_figure_has_a_row_for_each_picture_and_a_column_for_each_system(
    pictured: Any, drawn_figures: None, tmp_path: Path
) -> None:
    other = str(pictured.folder / "truth.json")  # called as a picture of every question is
    sizes = []
    for words in ([], ["--images", "tiny/val/fox", "--images", "hen"]):
        path = tmp_path / f"figure{len(sizes)}.png"
        done = pictured.run("figure", "elisa", "lisa", other, "--out", str(path), *words)
        assert done.code == 0, done.err
        assert f"{path}: {3 - bool(words)} questions of tiny/val, elisa, lisa, truth (predictions)" in done.out
        with Image.open(path) as picture:
            sizes.append(picture.size)
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] > sizes[1][1]
    again = tmp_path / "figure1.png"
    before = again.read_bytes()
    words = ("figure", "elisa", "lisa", other, "--out", str(again))
    assert pictured.run(*words, "--images", "fox,hen").code == 0  # what it wrote may be replaced
    assert again.read_bytes() == before
    done = pictured.run(*words, "--images", "foxx")
    assert done.code == 2
    assert "--images: found 'foxx', expected an image or a question of tiny/val" in done.err
    assert "did you mean 'fox'" in done.err
    assert again.read_bytes() == before


def test_a_figure_as_pdf_of_one_run_and_of_all(pictured: Any, drawn_figures: None, tmp_path: Path) -> None:
    for number, (words, names) in enumerate(((["lisa"], "lisa"), ([], "elisa, lisa"))):
        path = tmp_path / f"new/figure{number}.pdf"
        for _ in range(2):
            done = pictured.run("figure", *words, "--out", str(path), "--cases", "1")
            assert done.code == 0, done.err
            assert done.out.endswith(f"{path}: 1 questions of tiny/val, {names}\n")
            assert path.read_bytes().startswith(b"%PDF")
        assert b"/Type3" not in path.read_bytes()


def test_a_figure_says_what_stands_below_each_picture(
    ready: tuple[Any, Known], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project, known = ready
    drawn: list[Any] = []
    figure = "pipeline.commands.figure"
    monkeypatch.setattr(f"{figure}.qualitative_figure", lambda *given: (drawn.append(given), (b"%PDF", False))[1])
    there = {one["target_id"]: bool(one["instances"]) for own in known.targets for one in own}
    asked = [next(name for name, found in there.items() if found == wanted) for wanted in (False, True)]
    refused = [replace(one, segmentation=None, rejected=True) for one in guesses(ids(known), 0)]
    answers_of(project, "elisa", "d/val", refused)
    done = project.run("figure", "elisa", "--images", ",".join(asked), "--out", str(tmp_path / "f.pdf"))
    assert done.code == 0, done.err
    ((columns, rows, kind),) = drawn
    assert (columns, kind) == (["Ground truth", "elisa"], "pdf")
    assert [list(row.below) for row in rows] == [
        ["nothing of the kind is in the image", "refused, IoU 1.000"],
        ["", "refused, IoU 0.000"],
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "x.jpg"], "--out: found 'x.jpg', expected the name of a file that ends in .png or .pdf"),
        (["lsa", "--out", "x.png"], "(did you mean 'lisa'?)"),
        (["lisa", "lisa", "--out", "x.png"], "found 'lisa' twice"),
    ],
)
def test_usage_of_figure(ready: tuple[Any, Known], words: list[str], said: str) -> None:
    done = ready[0].run("figure", *words)
    assert done.code == 2
    assert said in done.err


def test_a_figure_without_answers_says_what_to_do(empty: Any) -> None:
    empty.configure(**SMALL)
    full_store(empty.store)
    done = empty.run("figure", "--out", "x.png")
    assert done.code == 2
    assert "RUN: no run has answered d/val; there are none yet; python cli.py" in done.err


def test_the_page_holds_the_tables_the_pictures_and_nothing_else(pictured: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = pictured.run("compare", "elisa", "lisa", "--page", str(path), "--json")
    page = path.read_text()
    found = done.json()
    gain = found["differences"]["lisa"]["miou_per_sample"]["gain"]
    assert f"{100 * gain:+.1f} [" in page
    assert page.count("<article") == 3
    assert page.count("Ground truth</span>") == 3
    assert page.count("<script") == 1
    assert page.partition('id="every"')[2].count("<tr><td>") == 3
    assert 'src="http' not in page
    assert "lisa compared with elisa, tiny, val" in page
    assert "Proposals</span>" not in page
    assert pictured.run("compare", "elisa", "lisa", "--page", str(path), "--cases", "1").code == 0


@pytest.mark.parametrize("words", [("compare", "elisa", "lisa", "--page"), ("figure", "--out")])
def test_a_file_of_somebody_else_stays(pictured: Any, tmp_path: Path, words: tuple[str, ...]) -> None:
    path = tmp_path / {"--page": "mine.html", "--out": "mine.png"}[words[-1]]
    path.write_bytes(b"mine")
    done = pictured.run(*words, str(path))
    assert done.code == 2
    assert f"{words[-1]}: {path}: exists, and was not written by this command" in done.err
    assert path.read_bytes() == b"mine"
    done = pictured.run(*words, str(path / f"below{path.suffix}"))
    assert done.code == 2
    assert f"{path} is a file, expected a folder" in done.err


def test_several_splits_are_compared_one_by_one(pictured: Any, tmp_path: Path) -> None:
    project = pictured.copy(tmp_path / "copy")
    split = open_split(project.store, "tiny", "train")
    names = [target["target_id"] for record in split for target in record.targets]
    for seed, name in enumerate(("elisa", "lisa")):
        answers_of(project, name, "tiny/train", guesses(names, seed, (48, 64)))
    found = project.run("compare", "elisa", "lisa", "--json").json()
    assert [one["split"] for one in found] == ["train", "val"]
    assert any("trained on tiny/train, which is compared here" in note for note in found[0]["notes"])
    for words in (
        ("compare", "elisa", "lisa", "--page", "page.html"),
        ("figure", "elisa", "lisa", "--out", "page.png"),
    ):
        path = tmp_path / words[-1]
        done = project.run(*words[:-1], str(path))
        assert done.code == 2
        assert "tiny/train, tiny/val; name one, such as --split train" in done.err
        assert not path.exists()
    done = project.run("compare", "elisa", "lisa", str(project.folder / "truth.json"))
    assert done.code == 2
    assert "truth (predictions) does not name its split" in done.err
    (project.folder / "trained/lisa/predictions/tiny/train.parquet").unlink()
    (one,) = [project.run("compare", "elisa", "lisa", "--json").json()]
    assert one["split"] == "val"
    assert "Left out: tiny/train: answered by elisa; lisa has not; run: python cli.py" in one["notes"][-1]
    assert load_settings(project.params).runs == {}
