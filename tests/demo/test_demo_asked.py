"""The demo's asker and verifier: faults as promised, verdicts out of image bytes alone, and arms of equal size."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from demo.data.asked import FIRST_NUMBER, AskedSizes, describe, make_asked, number_in
from demo.data.mixture import draw
from demo.measure.questions import counted, outcomes
from demo.questions import asker
from demo.questions.arms import ARMS, arms_of
from demo.questions.asker import FORMS, ask
from demo.questions.looker import enclosed
from stages.datasets import coco, reasonseg
from stages.questions.ask import ask_request
from stages.questions.items import Reason, Scene
from stages.questions.names import things_of
from stages.questions.params import AskParams
from stages.questions.parse import parse_pairs
from stages.questions.pictures import _draw_outline
from stages.questions.requests import Answer
from stages.questions.wire import chat_body

ROOT = Path(__file__).resolve().parents[2]


def scene_of(number: int) -> Scene:
    drawn = draw(number)
    height, width = drawn.scene.image.shape[:2]
    things = things_of([thing.label for thing in drawn.scene.objects])
    return Scene(drawn.name[:-4], "all", "", "", height, width, things)


def asked(number: int, seed: int) -> tuple[Scene, dict[str, Any], list[asker.Said]]:
    scene = scene_of(number)
    request = ask_request(scene, describe(draw(number)), AskParams(model="m", questions=8), "demo-asker")
    return scene, *ask(chat_body(request), seed)


def test_the_description_says_which_scene_it_is() -> None:
    assert number_in(describe(draw(FIRST_NUMBER + 3))) == FIRST_NUMBER + 3


def test_two_fifths_of_the_pairs_have_faults_half_of_them_the_wrong_object() -> None:
    said = [each for number in range(60) for each in asked(FIRST_NUMBER + number, 5)[2]]
    told = [each for each in said if each.fault != "useless"]
    faults = Counter(each.fault for each in told)
    assert 0.35 < 1 - faults[""] / len(told) < 0.45
    assert 0.35 < faults["wrong object"] / (len(told) - faults[""]) < 0.65
    assert faults.keys() - {"", "wrong object"} == FORMS.keys()
    assert 0.01 < 1 - len(told) / len(said) < 0.15
    for each in told:
        assert each.right == (each.fault == "" or (each.fault in FORMS and FORMS[each.fault][3]))


def test_another_seed_makes_other_faults() -> None:
    one, other = (asked(FIRST_NUMBER, seed)[1] for seed in (1, 2))
    assert asked(FIRST_NUMBER, 1)[1] == one
    assert one != other


def test_what_is_right_in_whatever_form_is_understood_and_what_is_not_is_no_pair_of_the_right_answer() -> None:
    """The parser against every fault: it may not take one answer for another."""
    for number in range(25):
        scene, choice, said = asked(FIRST_NUMBER + number, 7)
        text = choice["message"]["content"] or ""
        pairs, rejected = parse_pairs(
            scene.image_id, Answer(text, choice["finish_reason"], "m", 1, 1, 0.0), scene.things
        )
        found = {pair.question: pair.labels for pair in pairs}
        for each in said:
            if each.right:
                assert found.get(each.question) == (each.labels,), (each, text)
            elif each.fault == "wrong object":
                assert found.get(each.question) == (each.answer,), (each, text)
            elif each.fault in ("no answer", "two answers", "not in the list"):
                assert each.question not in found, (each, text)
        assert all(isinstance(each.reason, Reason) for each in rejected)


def test_what_is_outlined_is_found_in_the_jpeg() -> None:
    found = []
    for number in range(FIRST_NUMBER, FIRST_NUMBER + 12):
        drawn = draw(number).scene
        for thing in drawn.objects[:3]:
            pixels = drawn.image.copy()
            _draw_outline(pixels, thing.visible)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=0)
            ys, xs = np.nonzero(thing.visible)
            height, width = thing.visible.shape
            middle = int((xs.min() + xs.max()) / 2 / width * 8) + 1, int((ys.min() + ys.max()) / 2 / height * 8) + 1
            cells = enclosed(np.asarray(Image.open(file).convert("RGB")))
            found.append(any(abs(x - middle[0]) <= 1 and abs(y - middle[1]) <= 1 for x, y in cells))
    assert np.mean(found) > 0.8
    assert enclosed(np.full((64, 64, 3), 120, np.uint8)) == set()


def test_arms_are_equally_large_and_of_their_kind() -> None:
    def line(count: int) -> dict[str, Any]:
        return {"targets": [{"texts": [f"question {number}?"]} for number in range(count)]}

    every = {"a": line(6), "b": line(5)}
    passed = {"a": line(4)}
    arms = arms_of(passed, every)
    assert {arm: len(places) for arm, places in arms.items()} == dict.fromkeys(ARMS, 4)
    assert all(image_id == "a" and number < 4 for image_id, number in arms["passed"])
    assert not set(arms["passed"]) & set(arms["rejected"])
    assert arms == arms_of(passed, dict(reversed(every.items())))


def test_outcomes_and_their_counts(tmp_path: Path) -> None:
    row = {"image_id": f"{7:012d}", "targets": [{"texts": ["good?"]}]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    why = {"image_id": f"{7:012d}", "number": 1, "reason": "verifier", "what": "bad? -> cup"}
    (tmp_path / "rejected.jsonl").write_text(json.dumps(why) + "\n")
    said = [{"number": 7, "question": each, "right": each == "good?"} for each in ("good?", "bad?", "gone?")]
    assert [each for _, each in outcomes(said, tmp_path)] == ["passed", "verifier", "whole"]
    assert (
        counted("x", [(True, True), (True, False), (False, True), (False, False)])
        == "| x | 4 | 2 | 2 | 50.0 % | 50.0 % |"
    )


def test_the_data_set_is_of_cocos_form_and_has_what_is_asked(tmp_path: Path) -> None:
    make_asked(tmp_path / "scenes", AskedSizes(described=3, asked=2))
    sources = coco.list_sources(tmp_path / "scenes/coco", "train")
    lines = [json.loads(line) for line in (tmp_path / "scenes/descriptions.jsonl").read_text().splitlines()]
    assert [each.image_id for each in sources] == [line["image_id"] for line in lines]
    assert len(reasonseg.list_sources(tmp_path / "scenes/asked", "val")) == 2
    assert make_asked(tmp_path / "scenes", AskedSizes(described=3, asked=2)) == []


def test_the_endpoint_answers_while_the_command_runs(tmp_path: Path) -> None:
    scene, _, _ = asked(FIRST_NUMBER, 1)
    request = ask_request(scene, describe(draw(FIRST_NUMBER)), AskParams(model="m"), asker.MODEL)
    (tmp_path / "body.json").write_text(json.dumps(chat_body(request)))
    script = tmp_path / "ask.py"
    script.write_text(
        "import json, requests, sys\n"
        f"body = json.load(open({str(tmp_path / 'body.json')!r}))\n"
        "address = 'http://127.0.0.1:18766/v1/chat/completions'\n"
        "found = requests.post(address, json=body).json()\n"
        "assert found['model'] == 'demo-asker', found\n"
        "wrong = requests.post(address, json={**body, 'model': 'other'})\n"
        "assert wrong.status_code == 400 and 'demo-looker' in wrong.text\n"
        "assert requests.post(address.replace('chat', 'x'), json=body).status_code == 404\n"
        "sys.exit(7)\n"
    )
    command = [
        sys.executable,
        "-m",
        "demo.questions.endpoint",
        "--port",
        "18766",
        "--truth",
        str(tmp_path / "truth.jsonl"),
        "--",
    ]
    done = subprocess.run(
        [*command, sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 7, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert rows
    assert {row["number"] for row in rows} == {FIRST_NUMBER}
    with pytest.raises(requests.ConnectionError):
        requests.get("http://127.0.0.1:18766/v1", timeout=5)
