"""``ask``: about a stored image it says what ``evaluate`` said, and about a copy of the image's file the same again."""

from __future__ import annotations

import importlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from pipeline.asking import Answer, load_system
from pipeline.commands.ask import as_text
from stages.predictions import read
from store import rle

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ("elisa", "llmseg", "lisa")
NAMES = ("fox", "gnu", "hen")
QUICK = {"learning_rate": 2e-2, "lora_learning_rate": 1e-2, "max_new_tokens": 12}
"""Five steps of this size teach the demo's language model to speak of masks; which ones is all the same here."""


def question(name: str) -> str:
    return f"the {name} that waits"


@pytest.fixture(scope="module")
def trained(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny store with three trained systems that have answered ``val``."""
    project = finished_once.copy(tmp_path_factory.mktemp("asked"))
    lisa = {"learning_rate": 1e-2, "text_weight": 1.0, "bce_weight": 0.01, "dice_weight": 10.0}
    changes = {f"train__{name}__{key}": value for name in SYSTEMS for key, value in QUICK.items()}
    changes |= {f"train__{name}__mask_encoder": "demo_alphaclip" for name in ("elisa", "llmseg")}
    changes |= {f"train__lisa__{key}": value for key, value in lisa.items()}
    changes |= {"train__elisa__positive_iou": 0.05, "train__elisa__token_dropout": 0.0}
    project.configure(train__epochs=5, train__batch_size=5, train__warmup=0.0, **changes)
    for system in SYSTEMS:
        for words in (("train", "--system", system), ("evaluate", "--system", system, "--split", "val")):
            done = project.run(*words)
            assert done.code == 0, done.err
    return project


@pytest.fixture
def own(trained: Any, tmp_path: Path, project_at: Any) -> Any:
    """The same project with a cache and a report folder of its own."""
    project = project_at(tmp_path)
    project.values = {**trained.values, "run": {**trained.values["run"]}}
    project.values["run"] |= {"cache_dir": str(tmp_path / "cache"), "report_dir": str(tmp_path / "report")}
    project.params.write_text(json.dumps(project.values))
    return project


def picture(trained: Any, name: str) -> Path:
    (found,) = [path for path in (trained.data / "val").glob(f"{name}.*") if path.suffix != ".json"]
    return Path(found)


def said(answer: Any) -> tuple[Any, ...]:
    return answer.text, answer.segmentation, answer.rejected, None if answer.chosen is None else tuple(answer.chosen)


def test_some_answers_have_masks(trained: Any) -> None:
    """Else the tests below would say little. How well a step teaches depends on the machine: not every system need have one."""
    files = [trained.folder / f"trained/{system}/predictions/tiny/val.parquet" for system in SYSTEMS]
    found = {file.parts[-4]: [one.answer for one in read(file)[1] if not one.is_empty] for file in files}
    assert any(found.values())


@pytest.mark.parametrize("system", SYSTEMS)
def test_about_a_stored_image_and_about_a_copy_of_its_file_it_says_what_evaluate_said(
    trained: Any, own: Any, system: str
) -> None:
    _, predictions = read(trained.folder / f"trained/{system}/predictions/tiny/val.parquet")
    want = {one.target_id: (one.answer, one.segmentation, one.rejected, one.chosen) for one in predictions}
    assert len(want) == len(NAMES)
    loaded = load_system(system, params=own.params)
    for name in NAMES:
        (stored,) = loaded.ask(f"tiny/val/{name}", question(name))
        assert said(stored) == want[f"{name}/0"]
        if name == NAMES[-1] and system != "lisa":
            continue  # two copies are enough where the masks are the proposer's
        new = shutil.copy(picture(trained, name), own.folder / "a photo")
        (again,) = loaded.ask(new, question(name))
        assert said(again) == said(stored)
        assert again.chosen == stored.chosen
        assert np.array_equal(again.pixels, stored.pixels)
        assert again.png() == stored.png()
        if stored.segmentation is not None:
            assert stored.mask.shape == (48, 64)
            assert stored.mask.sum() == stored.area_px > 0
    both = loaded.ask("tiny/val/gnu", ["Where is it?", question("gnu"), "Where is it?"])
    assert said(both[0]) == said(both[2])
    assert said(both[1]) == said(loaded.ask("tiny/val/gnu", question("gnu"))[0]), "it depends on what else is asked"


def test_a_new_picture_is_computed_once(trained: Any, own: Any) -> None:
    new = shutil.copy(picture(trained, "gnu"), own.folder / "photo.jpg")
    words = ("--image", str(new), "--question", question("gnu"), "--json")
    first = own.run("ask", "--system", "elisa", *words)
    assert "masks asked/all: 1 of 1 images" in first.err
    cache = own.folder / "cache/ask"
    (folder,) = cache.iterdir()
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    second = own.run("ask", "--system", "elisa", *words)
    assert "asked/all" not in second.err
    assert second.json() == first.json()
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()} == before
    other = own.run("ask", "--system", "llmseg", *words)
    assert other.code == 0, other.err
    assert [*cache.iterdir()] == [folder], "what two systems read is computed once"
    changed = ("--set", "proposers.sam.points_per_side=3")
    more = own.run("ask", "--system", "llmseg", *words, before=changed)
    assert more.code == 0, more.err
    refused = own.run("ask", "--system", "elisa", *words, before=changed)
    assert (refused.code, "is the mean of other embeddings" in refused.err) == (2, True)
    names = sorted(path.name for path in cache.iterdir())
    assert len(names) == 2, "other parameters, other columns: both are kept"
    assert len({name.partition("-")[0] for name in names}) == 1


def test_the_last_command_of_the_first_hour(own: Any) -> None:
    page = (ROOT / "docs/first_hour.md").read_text(encoding="utf-8")
    line = re.findall(r"^python cli.py (ask .*)$", page, re.MULTILINE)[0]
    words = [str(ROOT / word) if word.startswith("tests/") else word for word in shlex.split(line)]
    done = own.run(*words)
    assert done.code == 0, done.err
    assert "What could one drink from?\n    answer   " in done.out
    (drawn,) = (own.folder / "report/ask").glob("*.png")
    assert f"    picture  {drawn}\n" in done.out


def test_killed_in_the_middle_it_goes_on(trained: Any, own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    new = str(shutil.copy(picture(trained, "gnu"), own.folder / "photo.jpg"))
    words = ("ask", "--system", "elisa", "--image", new, "--question", question("gnu"), "--json")
    with monkeypatch.context() as patch:
        patch.setattr("stages.embed._embed", stop)
        done = own.run(*words)
    assert done.code == 130
    assert not (own.folder / "report/ask").exists()
    done = own.run(*words)
    assert "masks asked/all" not in done.err
    assert "embed asked/all" in done.err
    (stored,) = load_system("elisa", params=own.params).ask("tiny/val/gnu", question("gnu"))
    (answer,) = done.json()["answers"]
    assert (answer["answer"], answer["segmentation"] and answer["segmentation"]["counts"]) == said(stored)[:2]
    (folder,) = (own.folder / "cache/ask").iterdir()
    (folder / "picture.jpg").write_bytes(b"torn")  # as a lost disk may leave it
    assert own.run(*words).json()["answers"] == done.json()["answers"]


def test_a_turned_picture_is_asked_about_upright(trained: Any, own: Any) -> None:
    upright = Image.open(picture(trained, "gnu")).convert("RGB")
    upright.save(own.folder / "upright.png")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(own.folder / "turned.png", exif=exif)
    loaded = load_system("lisa", params=own.params)
    asked = question("gnu")
    (plain,), (other,) = (loaded.ask(own.folder / name, asked) for name in ("upright.png", "turned.png"))
    assert said(other) == said(plain)
    assert (other.height_px, other.width_px) == (48, 64)
    assert other.png() == plain.png()


def test_what_is_printed_and_written(trained: Any, own: Any) -> None:
    (own.folder / "questions.txt").write_text(f"\ufeff{question('gnu')}\n\nWhere is it?\r\n", encoding="utf-8")
    words = ("ask", "--system", "lisa", "--image", "tiny/val/gnu", "--questions", str(own.folder / "questions.txt"))
    found = own.run(*words, "--json").json()
    assert [each["question"] for each in found["answers"]] == [question("gnu"), "Where is it?"]
    assert found["run"] == json.loads((trained.folder / "trained/lisa/run.json").read_text())["digest"]
    done = own.run(*words)
    assert done.out.startswith("tiny/val/gnu, asked lisa:\n  the gnu that waits\n    answer   ")
    for each in found["answers"]:
        path = Path(each["png"])
        assert path.parent == own.folder / "report/ask"
        assert f"    picture  {path}\n" in done.out
        with Image.open(path) as drawn:
            assert (drawn.format, drawn.size) == ("PNG", (256, 192))
        if each["segmentation"] is not None:
            assert rle.area(each["segmentation"]["counts"]) == each["area_px"]
            assert each["segmentation"]["size"] == [48, 64]
    out = own.folder / "one.png"
    one = ("ask", "--system", "lisa", "--image", "tiny/val/gnu", "--question", question("gnu"), "--out", str(out))
    assert own.run(*one).code == 0
    assert out.read_bytes() == Path(found["answers"][0]["png"]).read_bytes()
    again = own.run(*one)
    assert (again.code, "one.png exists; --replace writes it again" in again.err) == (2, True)
    assert own.run(*one, "--replace").code == 0


def test_a_picture_that_fails_is_named_with_the_reason(own: Any, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: Any, collector: Any, group: Any, *_: Any) -> None:
        for _, index, *_ in group:
            collector.failed(index, "failed", "made to fail")

    monkeypatch.setattr("stages.embed._embed", fail)
    new = str(shutil.copy(picture(trained, "gnu"), own.folder / "photo.jpg"))
    done = own.run("ask", "--system", "elisa", "--image", new, "--question", "Where is it?")
    assert (done.code, done.out) == (2, "")
    assert re.search(r"photo\.jpg cannot be asked about: .*made to fail", done.err)


def test_a_picture_without_masks_is_answered_by_none(own: Any, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.masks.largest_first", lambda records: [])
    new = str(shutil.copy(picture(trained, "gnu"), own.folder / "photo.jpg"))
    for system in ("elisa", "llmseg"):
        done = own.run("ask", "--system", system, "--image", new, "--question", question("gnu"))
        assert done.code == 0, done.err
        assert "    mask     no mask answers this\n" in done.out


WRONG = {
    "found no word in it": ["--question", "  "],
    "found the control character '\\x1b'": ["--question", "what \x1b[2J is it"],
    "found the control character '\\n'": ["--question", "one\ntwo"],
    "found '[SEG]', which steers a language model": ["--question", "It is [SEG]."],
    "found 2001 characters, expected at most 2000": ["--question", "x" * 2001],
    "expected --question TEXT or --questions FILE": [],
    "found no file 'no/such.txt', expected one with a question in each line": ["--questions", "no/such.txt"],
    "is empty, expected a question in each line": ["--questions", "{empty}"],
    "is not UTF-8": ["--questions", "{binary}"],
    "found no file 'nothing.jpg', expected a picture, or an image of the store as DATASET/SPLIT/IMAGE_ID": [
        *("--question", "x", "--image", "nothing.jpg")
    ],
    "tiny/val has no image 'fxo' (did you mean 'fox'?)": ["--question", "x", "--image", "tiny/val/fxo"],
    "no readable header of a JPEG, PNG, WebP, BMP or TIFF": ["--question", "x", "--image", "{binary}"],
    "not a regular file": ["--question", "x", "--image", "{folder}"],
    "expected a folder, as there are 2 questions": ["--question", "x", "--question", "y", "--out", "a.png"],
    "expected a folder, or the name of a file that ends in .png": ["--question", "x", "--out", "{binary}"],
    "--system: found 'elsa'": ["--question", "x", "--system", "elsa"],
    "several runs are trained: elisa, lisa, llmseg": ["--question", "x", "--system", ""],
}


@pytest.mark.parametrize("why", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_written(own: Any, why: str) -> None:
    (own.folder / "empty").write_bytes(b"\n \n")
    (own.folder / "binary").write_bytes(b"\xff\xfe\x00")
    places = {name: str(own.folder / name) for name in ("empty", "binary")} | {"folder": str(own.folder)}
    given = [word.format(**places) if word.startswith("{") else word for word in WRONG[why]]
    given += [] if "--image" in given else ["--image", "tiny/val/fox"]
    given += [] if "--system" in given else ["--system", "elisa"]
    if "" in given:  # neither --system nor --name
        del given[given.index("--system") :][:2]
        at = given.index("")
        given = given[: at - 1] + given[at + 1 :]
    done = own.run("ask", *given)
    assert (done.code, done.out) == (2, ""), done.err
    assert why in done.err
    assert not (own.folder / "report").exists()
    assert not (own.folder / "cache/ask").exists()


def test_a_run_of_other_parameters_is_not_asked(own: Any) -> None:
    words = ("ask", "--system", "elisa", "--image", "tiny/val/fox", "--question", "x")
    done = own.run(*words, before=("--set", "train.seed=4"))
    assert done.code == 2
    (typed,) = re.findall(r"to ask it as it was trained: python cli\.py (.*)$", done.err, re.MULTILINE)
    assert shlex.split(typed)[-3:] == ["ask", "--system", "elisa"]
    done = own.run(*words, before=("--set", "run.train_dir=data/no-such-folder"))
    assert (done.code, "elisa is not trained; run: python cli.py " in done.err) == (2, True)


def test_the_only_trained_run_needs_no_name(own: Any, trained: Any) -> None:
    shutil.copytree(trained.folder / "trained/lisa", own.folder / "trained/lisa")
    shutil.copytree(trained.folder / "trained/lisa", own.folder / "trained/lisa-without-image")
    before = ("--set", f"run.train_dir={own.folder / 'trained'}")
    found = own.run("ask", "--image", "tiny/val/fox", "--question", "x", "--json", before=before).json()
    assert found["system"] == "lisa"
    empty = own.run("ask", "--image", "tiny/val/fox", "--question", "x", before=("--set", "run.train_dir=data/none"))
    assert (empty.code, "data/none is trained; run: python cli.py" in empty.err) == (2, True)


def test_a_picture_that_is_gone_is_drawn_on_gray(own: Any, trained: Any) -> None:
    file = picture(trained, "hen")
    kept = file.rename(own.folder / "kept")
    try:
        done = own.run("ask", "--system", "lisa", "--image", "tiny/val/hen", "--question", question("hen"), "--json")
    finally:
        kept.rename(file)
    assert (
        "the file of tiny/val/hen is missing or has changed since it was indexed; masks are drawn on gray" in done.err
    )
    drawn = np.asarray(Image.open(io.BytesIO(Path(done.json()["answers"][0]["png"]).read_bytes())))
    assert drawn.shape == (192, 256, 3)


def test_an_answer_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    answer = Answer("a\x1b]0;x", "q?", "\x1b[2J\u202egone", None, True, (), 4, 4, None)
    text = as_text("elisa", [answer], [tmp_path])
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "no mask answers this: it says that nothing of the kind is there" in text


def test_a_question_of_the_store_is_asked_as_the_store_has_it() -> None:
    from pipeline.asked import Asked
    from pipeline.asking import _as_stored

    targets = [{"texts": ["the mug "], "is_sentence": False, "kind": "referring"}]
    asked = Asked("x", "", None, 0, None, targets, None)  # type: ignore[arg-type]
    assert vars(_as_stored(asked, "the mug", False)) == {"text": "the mug ", "is_sentence": False, "kind": "referring"}
    assert _as_stored(asked, "the cup", False).is_sentence
    assert not _as_stored(asked, "the cup", True).is_sentence


def command() -> Any:
    return typer.main.get_command(importlib.import_module("cli").app).commands["ask"]


def test_the_examples_of_the_help_page_are_right(own: Any, trained: Any) -> None:
    found = re.findall(r"^ *`python cli\.py (ask .*)`$", command().help or "", re.MULTILINE)
    assert len(found) == 3
    (own.folder / "questions.txt").write_text("Where is it?\nWhat is it?\n")
    shutil.copy(picture(trained, "gnu"), own.folder / "photo.jpg")
    here = {"demo/test/0003": "tiny/val/gnu"}
    here |= {name: str(own.folder / name) for name in ("photo.jpg", "questions.txt", "answer.png", "answers/")}
    for line in found:
        words = [here.get(word, word) for word in shlex.split(line)]
        done = own.run(*words)
        assert done.code == 0, done.err
    assert (own.folder / "answer.png").is_file()
    assert len([*(own.folder / "answers").glob("*.png")]) == 2
    assert "Follow-up questions are not possible" in command().help


def test_the_python_of_the_page_runs(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs/asking.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    for there, here in {"params.yaml": str(own.params), "demo/test/0003": "tiny/val/gnu"}.items():
        assert block.count(there) == 1
        block = block.replace(there, here)
    names: dict[str, Any] = {}
    exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("(48, 64)") for line in lines)
    (again,) = names["elisa"].ask("tiny/val/gnu", "What could one drink from?")
    assert lines[0].startswith(f"What could one drink from? {again.text} ")
