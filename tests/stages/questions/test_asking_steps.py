"""The steps describe and ask: what is sent, what is read back, and stored descriptions."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stages.datasets.base import DatasetError
from stages.questions.ask import ask_prompt, ask_request
from stages.questions.describe import describe_request, read_description, stored_descriptions, stored_tags
from stages.questions.items import Reason, Rejected, Scene
from stages.questions.names import things_of
from stages.questions.params import AskParams, CheckParams, DescribeParams
from stages.questions.parse import parse_pairs
from stages.questions.prompts import PromptError, load_prompt
from stages.questions.requests import Answer, Picture, Unanswered
from stages.questions.rules import check


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that nobody decodes."""

    def whole(scene: Scene, side_px: int) -> Picture:
        return Picture(f"{scene.sha256}{side_px}", side_px, side_px, bytes)

    module = ModuleType("stages.questions.pictures")
    module.whole = whole  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def scene(*labels: str, image_id: str = "7") -> Scene:
    return Scene(image_id, "simple", "/pictures/7.jpg", "ab", 40, 50, things_of(labels or ("dog", "stop_sign")))


def test_a_description_is_asked_for_in_one_turn_with_the_picture() -> None:
    request = describe_request(scene(), DescribeParams(max_tokens=300, side_px=512), "m")
    assert (request.step, request.subject, request.model) == ("describe", "7", "m")
    [message] = request.messages
    assert message.role == "user"
    assert [each.digest for each in message.pictures] == ["ab512"]
    assert "ten sentences" in message.text
    assert (request.sampling.max_tokens, request.sampling.temperature, request.sampling.seed) == (300, 0.0, None)
    assert request.prompt == load_prompt("describe-1").record


def said(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text, finish_reason, "m", 0, 0, 0.0)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (said(" A dog.\n\nIt sleeps. "), "A dog. It sleeps."),
        (said("A dog. It sleeps on the so", "length"), "A dog."),
        (said("A dog that sleeps on", "length"), Reason.CUT),
        (said("<think>Is it a cat? No.</think>\nA dog."), "A dog."),
        (said("Is it a cat? No.</think> A dog."), "A dog."),
        (said("<think>Is it a cat? No.", "length"), Reason.CUT),
        (said("<think>Is it a cat?</think>"), Reason.NO_TEXT),
        (said("", "stop"), Reason.NO_TEXT),
        (said("", "content_filter"), Reason.REFUSAL),
        (said("x" * 2_000_000), Reason.TOO_LARGE),
        (Unanswered("status 400"), Reason.UNANSWERED),
    ],
)
def test_a_description_is_read_back(reply: Any, expected: Any) -> None:
    found = read_description("7", reply)
    if isinstance(found, Rejected):
        assert (found.image_id, found.number) == ("7", None)
    assert (found.reason if isinstance(found, Rejected) else found) == expected


def test_the_asker_is_told_summary_objects_and_number() -> None:
    request = ask_request(scene(), "A dog waits.\n[Important Objects]: cat", AskParams(model="x", questions=3), "m")
    assert [each.role for each in request.messages] == ["system", "user", "assistant", "user"]
    assert request.messages[-1].text == (
        "[Summary]: A dog waits. (Important Objects) - cat\n[Important Objects]: dog | stop sign\n[Number]: 3\n[Questions]:"
    )
    assert all(not each.pictures for each in request.messages), "the paper's asker sees words alone"
    assert (request.sampling.temperature, request.sampling.seed) == (0.7, 0)
    assert request.prompt == load_prompt("ask-1").record
    again = ask_request(scene(), "A dog waits.\n[Important Objects]: cat", AskParams(model="x", questions=3), "m")
    assert request.key == again.key
    assert request.key != ask_request(scene(), "A cat waits.", AskParams(model="x", questions=3), "m").key


def test_no_label_of_a_data_set_is_shown() -> None:
    text = ask_request(scene("car_(automobile)", "car:wheel"), "s", AskParams(model="x"), "m").messages[-1].text
    assert "[Important Objects]: car\n" in text


def test_tags_stand_in_place_of_the_summary() -> None:
    request = ask_request(scene(), ("dog", "sofa | bed"), AskParams(model="x"), "m")
    assert request.messages[-1].text.startswith("[Tags]: dog | sofa / bed\n")
    assert request.prompt == load_prompt("tags-1").record


def test_the_asker_may_see_the_picture() -> None:
    params = AskParams(model="x", picture=True, side_px=256)
    for summary in ("A dog.", ("dog",)):
        request = ask_request(scene(), summary, params, "m")
        assert [len(each.pictures) for each in request.messages] == [0, 0, 0, 1]
        assert request.messages[-1].pictures[0].digest == "ab256"
        assert "do not see" not in request.messages[0].text
        assert request.prompt == load_prompt("ask-picture-1").record


@pytest.mark.parametrize("summary", ["", " \n", (), (" ", "\x00")])
def test_without_a_description_the_asker_is_told_so(summary: Any) -> None:
    assert "]: (none)\n" in ask_request(scene(), summary, AskParams(model="x"), "m").messages[-1].text


def test_nothing_to_ask_for_is_told() -> None:
    with pytest.raises(ValueError, match="7: no object, expected at least one to ask for"):
        ask_request(scene("dog:ear"), "s", AskParams(model="x"), "m")


def test_a_template_of_ones_own_is_used_whatever_the_input(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("--- user\n{summary}: {questions} about {objects}")
    params = AskParams(model="x", prompt=str(tmp_path / "mine.txt"))
    assert ask_request(scene(), ("a", "b"), params, "m").messages[0].text == "a | b: 5 about dog | stop sign"
    (tmp_path / "other.txt").write_text("--- user\n{summary}: {questions}")
    with pytest.raises(PromptError, match=r"other: \{objects\} is missing"):
        ask_prompt(AskParams(model="x", prompt=str(tmp_path / "other.txt")))


@pytest.mark.parametrize("name", ["ask-1", "ask-picture-1", "tags-1"])
def test_the_worked_example_keeps_all_rules(name: str) -> None:
    _, (_, shown), (_, answered), _ = load_prompt(name).turns
    listed = next(line for line in shown.split("\n") if line.startswith("[Important Objects]: "))
    things = things_of(listed.partition(": ")[2].split(" | "))
    pairs, unread = parse_pairs("i", said(answered), things)
    assert f"[Number]: {len(pairs)}" in shown
    assert unread == []
    assert check(pairs, things, CheckParams()) == (pairs, [])
    assert all(pair.question[0].isupper() and pair.answer in shown for pair in pairs)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_stored_descriptions_are_read_in_both_forms(tmp_path: Path) -> None:
    expected = {"7": "A dog.", "a/8": "Ein Hund. ß"}
    rows = [{"image_id": image_id, "description": text, "model": "x"} for image_id, text in expected.items()]
    assert stored_descriptions(write(tmp_path / "a.json", expected)) == expected
    assert stored_descriptions(write(tmp_path / "b.json", json.dumps(expected, indent=2))) == expected
    assert stored_descriptions(write(tmp_path / "c.jsonl", *rows, "")) == expected


def test_stored_tags_are_read_in_all_forms(tmp_path: Path) -> None:
    tags = {"1": "dog | sofa | dog | ", "2": ["dog", " sofa "], "3": "dog, sofa", "4": "dog"}
    found = stored_tags(write(tmp_path / "a.json", tags))
    assert found == {"1": ("dog", "sofa"), "2": ("dog", "sofa"), "3": ("dog", "sofa"), "4": ("dog",)}
    rows = [{"image_id": image_id, "tags": value} for image_id, value in tags.items()]
    assert stored_tags(write(tmp_path / "b.jsonl", *rows)) == found


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([" \n"], "a.json: found no image; expected a JSON object by image_id"),
        (["{}"], "found no image"),
        (['["a"]'], "found list; expected a JSON object"),
        (["3"], "found int; expected"),
        (["{'a': 1}"], "expected a JSON object by image_id, or JSON Lines"),
        (['{"7": "a", "7": "b"}'], "'7' appears twice, expected each image once"),
        ([{"image_id": "7", "description": "a"}, {"image_id": "7", "description": "a"}], "'7' appears twice"),
        ([{"image_id": "7", "description": "a"}, {"image_id": 8, "description": "a"}], "line 2 is "),
        ([{"image_id": "7", "description": "a"}, {"image_id": "8"}], "line 2 is "),
        ([{"image_id": "7", "text": "a"}], "line 1 is "),
        ([{"7": " "}], "'7': found ' ', expected a text that is not blank"),
        ([{"7": ["a"]}], r"'7': found \['a'\], expected a text"),
    ],
)
def test_a_file_of_another_form_is_told(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        stored_descriptions(write(tmp_path / "a.json", *lines))


def test_tags_of_another_form_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'7': found 3, expected a list of tags"):
        stored_tags(write(tmp_path / "a.json", {"7": 3}))
    with pytest.raises(DatasetError, match=r"'7': found no tag"):
        stored_tags(write(tmp_path / "b.json", {"7": " | "}))
    with pytest.raises(DatasetError, match="no such file"):
        stored_tags(tmp_path / "c.json")
