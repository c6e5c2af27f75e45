"""``browse`` with trained runs: asking, words near a mask, and whether stored answers are those that a run would give now."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from browsing import CAPTION, NAME, Server, served

from pipeline.asking import Answer, TrainedSystem, load_system
from pipeline.commands.browse import browse_command
from pipeline.params_file import load_settings
from stages.train.places import with_places
from store import open_split, rle
from store.outlines import outline
from tests import browser

SPLIT = "tiny/val"
NAMES = ["fox", "gnu", "hen", NAME]
QUESTION = "the gnu that waits"
HOSTILE = '<img src=x onerror="document.title=1"> <SEG_MASK_2> \u202e'
TEACH = ("train__epochs", 5), ("train__batch_size", 5), ("train__warmup", 0.0), ("train__elisa__learning_rate", 2e-2)
TEACH += (
    ("train__elisa__lora_learning_rate", 1e-2),
    ("train__elisa__max_new_tokens", 12),
    ("train__elisa__positive_iou", 0.05),
)


@pytest.fixture(scope="module")
def taught(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with a hostile name, an ELISA that has answered ``val``, a second run that is a copy of it, and external answers."""
    project = finished_once.copy(tmp_path_factory.mktemp("taught"))
    project.configure(train__elisa__mask_encoder="demo_alphaclip", **dict(TEACH))
    project.add("val", NAME, 21)
    path = project.data / "val" / f"{NAME}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": [CAPTION.replace("\0", "")]}))
    elisa = project.folder / "trained/elisa"
    given = elisa / "predictions/tiny/val.parquet"
    for words in (
        ("index", "--split", "val"),
        ("extract", "--split", "val"),
        ("normalize",),
        ("train", "--system", "elisa"),
        ("evaluate", "--system", "elisa", "--split", "val"),
        ("evaluate", "--predictions", str(given), "--split", "val", "--keep", "theirs"),
    ):
        done = project.run(*words)
        assert done.code == 0, done.err
    shutil.copytree(elisa, elisa.with_name("twin"), ignore=shutil.ignore_patterns("predictions"))
    return project


@pytest.fixture(scope="module")
def server(taught: Any) -> Iterator[Server]:
    with served(taught.params) as running:
        yield running


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("number", [1, 3])
def test_an_answer_is_that_of_the_system_and_nothing_is_written(taught: Any, server: Server, number: int) -> None:
    before = files(taught.folder)
    expected = load_system("elisa", params=taught.params).ask(f"{SPLIT}/{NAMES[number]}", ["Where is it?", QUESTION])
    for one in expected:
        got = server.ask("ask", split=SPLIT, index=number, run="elisa", question=f"  {one.question} ")
        assert (got["answer"], got["rejected"], got["area"]) == (one.text, one.rejected, one.area_px)
        assert got["d"] == (outline(one.segmentation, one.height_px) if one.segmentation else "")
        assert got["chosen"] == list(one.chosen or ())
    assert files(taught.folder) == before


def test_a_stored_question_is_answered_as_evaluate_did(server: Server) -> None:
    (stored,) = next(iter(server.ask("image", split=SPLIT, index=1)["runs"]["elisa"]["answers"].values()))
    got = server.ask("ask", split=SPLIT, index=1, run="elisa", question=QUESTION)
    assert (got["answer"], got["d"], got["iou"]) == (stored["answer"], stored["d"], stored["iou"])
    assert server.ask("ask", split=SPLIT, index=1, run="elisa", question="Where is it?")["iou"] is None


def test_words_are_those_of_all_cosines_with_the_adapter_s_rows(taught: Any, server: Server) -> None:
    found = server.ask("words", split=SPLIT, index=1, run="elisa")
    assert found["proposer"] == "sam"
    system = load_system("elisa", params=taught.params)
    assert {str(number): words for number, words in system.words(f"{SPLIT}/gnu").items()} == {
        number: [(word, pytest.approx(cosine)) for word, cosine in words] for number, words in found["words"].items()
    }
    model: Any = system._system
    assert model is not None
    column = "centered/tiny/mask_embeddings/sam/demo_alphaclip"
    record = open_split(taught.store, "tiny", "val", columns=["images", "masks/sam", column])[1]
    boxes = [mask["bbox"] for mask in record.masks]
    entering = with_places(torch.from_numpy(record[column].astype(np.float32))[None], [boxes], [(48, 64)])[0]
    with torch.no_grad():
        rows = model.model.adapter(entering).numpy()
    table = model.model.get_input_embeddings().weight.detach().numpy()
    cosines = rows @ table.T / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(table, axis=1)
    assert sorted(map(int, found["words"])) == list(range(len(rows)))
    for number, words in found["words"].items():
        assert words, "each mask has words"
        for word, cosine in words:
            spelled = {
                float(cosines[int(number), token])
                for token in range(len(table))
                if model.tokenizer.decode([token]).strip() == word
            }
            assert cosine == pytest.approx(max(spelled), abs=1e-4)
        assert [cosine for _, cosine in words] == sorted((cosine for _, cosine in words), reverse=True)


def test_words_of_a_system_without_an_adapter_are_refused(taught: Any) -> None:
    from answering import run_of

    from pipeline.config import InputError

    run_of(taught, "lisa")
    try:
        with pytest.raises(InputError, match="found a run of lisa, which has no adapter.*expected a run of elisa"):
            load_system("lisa", params=taught.params).words(f"{SPLIT}/gnu")
    finally:
        shutil.rmtree(taught.folder / "trained/lisa")


def test_one_question_at_a_time(taught: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, begun = threading.Event(), threading.Event()

    def answers(self: TrainedSystem, image: str, questions: Any, phrase: bool) -> Any:
        begun.set()
        assert go_on.wait(60)
        return [Answer(image, questions[0], HOSTILE, None, True, {}, 48, 64, None)]

    monkeypatch.setattr(TrainedSystem, "answers", answers)
    with served(taught.params) as running:

        def ask(question: str, name: str = "ask") -> Any:
            asked = {"split": SPLIT, "index": 1, "run": "elisa", "question": question}
            return running.get(f"/api/{name}?{urlencode(asked)}")

        assert ask("first").status == 202
        assert begun.wait(60)
        for name in ("ask", "words"):
            refused = ask("second", name)
            assert refused.status == 503
            assert refused.json()["error"] == "busy with a question to elisa; try again when that is finished"
        assert ask("first").status == 202
        assert running.get(f"/api/image?split={SPLIT}&index=1").status == 200, "the rest of the pages is not in its way"
        go_on.set()
        assert running.ask("ask", split=SPLIT, index=1, run="elisa", question="first")["answer"] == HOSTILE
        assert running.ask("ask", split=SPLIT, index=1, run="elisa", question="second")["rejected"] is True


def test_a_split_that_the_params_do_not_name_cannot_be_asked_about(
    taught: Any, tmp_path: Path, project_at: Any
) -> None:
    """Its images would be taken for paths of pictures."""
    other = project_at(tmp_path)
    other.values = json.loads(json.dumps(taught.values))
    other.values["data"]["tiny"]["splits"] = ["train"]
    other.params.write_text(json.dumps(other.values))
    with served(other.params) as running:
        assert running.ask("runs", split=SPLIT)["askable"] == []
        got = running.ask("ask", split=SPLIT, index=1, run="elisa", question="a")
        assert got.status == 404
        assert "does not name tiny/val" in got.json()["error"]


def test_runs_say_whose_answers_there_are_and_which_can_be_asked(taught: Any, server: Server) -> None:
    found = server.ask("runs", split=SPLIT)
    assert {name: (one["kind"], one["outdated"]) for name, one in found["answers"].items()} == {
        "elisa": ("trained", []),
        "theirs": ("external", []),
    }
    assert found["answers"]["theirs"]["about"].startswith("val.parquet, sha256 ")
    assert [(one["name"], one["proposer"], one["words"], one["why"]) for one in found["askable"]] == [
        ("elisa", "sam", True, ""),
        ("twin", "sam", True, ""),
    ]
    about = server.ask("split", split=SPLIT)
    assert about["measures"]["run:theirs"] == "IoU of theirs, external"
    image = server.ask("image", split=SPLIT, index=1)["runs"]
    ours, theirs = (next(iter(image[name]["answers"].values()))[0] for name in ("elisa", "theirs"))
    assert theirs["d"] == ours["d"]
    assert ours["chosen"] is not None
    assert theirs["chosen"] is None, "numbers of masks that are another program's"


CHANGES = {
    "how it answers": ("train__elisa__max_new_tokens", 11, "train.elisa.max_new_tokens: 12 -> 11", "evaluate", True),
    "how it was trained": ("train__seed", 7, "seed", "train --system elisa --replace && ", False),
}


@pytest.mark.parametrize("case", CHANGES)
def test_answers_of_other_parameters_are_outdated(taught: Any, tmp_path: Path, project_at: Any, case: str) -> None:
    name, value, reason, command, askable = CHANGES[case]
    other = project_at(tmp_path)
    other.values = json.loads(json.dumps(taught.values))
    *sections, key = name.split("__")
    place = other.values
    for section in sections:
        place = place[section]
    place[key] = value
    other.params.write_text(json.dumps(other.values))
    with served(other.params) as running:
        found = running.ask("runs", split=SPLIT)
        elisa = found["answers"]["elisa"]
        assert any(reason in one for one in elisa["outdated"]), elisa
        assert command in elisa["command"]
        assert found["answers"]["theirs"]["outdated"] == []
        (run,) = (one for one in found["askable"] if one["name"] == "elisa")
        assert (run["why"] == "") is askable, run
        if not askable:
            got = running.ask("ask", split=SPLIT, index=1, run="elisa", question="a")
            assert got.status == 400
            assert got.json()["error"] == run["why"]


def test_no_model_is_looked_up_on_the_hub(taught: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("pipeline.commands.browse.serve", lambda *_: seen.append(os.environ["HF_HUB_OFFLINE"]))
    browse_command(load_settings(taught.params), None, [], "127.0.0.1", 0, None)
    assert seen == ["1"]


@pytest.mark.skipif(browser.find() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")
def test_a_person_asks_switches_runs_and_looks_at_words(
    taught: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((48, 64), bool)
    mask[10:20, 30:50] = True
    counts = rle.encode(mask)

    def answers(self: TrainedSystem, image: str, questions: Any, phrase: bool) -> Any:
        if self.run.name == "twin":
            return [Answer(image, questions[0], f"twin {phrase}", None, True, {}, 48, 64, None)]
        return [Answer(image, questions[0], HOSTILE, counts, False, {2: counts}, 48, 64, None)]

    def words(self: TrainedSystem, image: str) -> Any:
        return {0: [("<b>mug</b>", 0.5), ("cup", 0.25)], 1: [("hat", 0.125)]}

    monkeypatch.setattr(TrainedSystem, "answers", answers)
    monkeypatch.setattr(TrainedSystem, "words", words)
    with browser.open_page(f"{server.address}/image?split={SPLIT}&index=3&mask=0", tmp_path) as page:

        def texts(selector: str) -> list[str]:
            return list(
                page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.textContent)")
            )

        def ask(run: str, question: str) -> None:
            page.run(f"document.querySelector('#ask [name=run]').value = {json.dumps(run)}")
            page.run(f"document.querySelector('#ask [name=question]').value = {json.dumps(question)}")
            count = page.run("document.querySelectorAll('#asked li').length")
            page.run("document.querySelector('#ask button').click(), true")
            page.wait(f"document.querySelectorAll('#asked li').length === {count + 1}")

        page.wait("document.body.dataset.runs === 'yes'")
        assert texts("#answers .tag") == ["external"]
        assert texts("#ask option") == ["elisa", "twin"]
        ask("elisa", CAPTION.replace("\0", ""))
        assert texts("#asked .said") == [HOSTILE]
        assert texts("#asked bdi")[0] == CAPTION.replace("\0", "")
        assert page.run("document.querySelector('path.answer').getAttribute('d')") == outline(counts, 48)
        assert "mask 2 · 200 px · IoU" in texts("#asked button")[0]
        page.run("document.querySelector('#ask [name=phrase]').checked = true")
        ask("twin", "the mug")
        assert texts("#asked .said") == ["twin True", HOSTILE]
        assert page.run("document.querySelectorAll('path.answer').length") == 0
        page.run("document.querySelectorAll('#asked button')[1].click(), true")
        page.wait("document.querySelector('path.answer')")
        page.run("document.querySelector('#runs button').click(), true")
        page.wait("document.querySelector('#runs button[aria-pressed=true]')")
        assert texts("#words button") == ["elisa", "twin"]
        page.run("document.querySelector('[data-words=elisa]').click(), true")
        page.wait("document.querySelector('.words li')")
        assert texts(".words li") == ["<b>mug</b> 0.500", "cup 0.250"]
        page.run("document.querySelector('tr[data-number=\"1\"]').click(), true")
        page.wait("document.querySelector('.words li')?.textContent === 'hat 0.125'")
        page.run("document.querySelector('tr[data-number=\"2\"]').click(), true")
        page.wait("document.querySelector('#words .note')")
        assert "is not offered this mask" in texts("#words .note")[0]
        assert page.run("document.querySelectorAll('#content b, #content img[onerror]').length") == 0
        assert page.run("document.title") == f"{SPLIT} – ELISA feature store"
        assert {url for url in page.requests if not url.startswith(server.address + "/")} <= {"about:blank"}
        assert page.complaints == []
