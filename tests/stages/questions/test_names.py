"""What objects are called: shown names, and answers that are understood or not guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.datasets.base import DatasetError
from stages.questions.items import Thing
from stages.questions.names import Meaning, content_words, match, meanings_of, mentioned, stem, things_of

LVIS = {
    "car_(automobile)": Meaning(("car_(automobile)", "auto_(automobile)", "automobile"), "a motor vehicle"),
    "stop_sign": Meaning(("stop_sign",), "a sign"),
    "spectacles": Meaning(("spectacles", "glasses", "eyeglasses")),
    "glass_(drink_container)": Meaning(("glass_(drink_container)", "drinking_glass")),
    "bow_(weapon)": Meaning(("bow_(weapon)",)),
    "bow_(decorative_ribbons)": Meaning(("bow_(decorative_ribbons)", "bow_(decorative_ribbon)")),
    "T-shirt": Meaning(("T-shirt", "jersey", "tee-shirt")),
    "person": Meaning(("person", "baby", "child", "boy", "girl", "man", "woman", "human")),
    "salt_and_pepper": Meaning(),
    "knife": Meaning(),
    "scissors": Meaning(("scissors", "pair_of_scissors")),
}
THINGS = things_of(list(LVIS), LVIS)


def label(found: Thing | list[Thing] | None) -> Any:
    return sorted(each.label for each in found) if isinstance(found, list) else found and found.label


def test_things_have_plain_names_and_their_instances() -> None:
    things = things_of(["stop_sign", "car_(automobile)", "stop_sign"], LVIS, incomplete=["stop_sign"])
    assert things == (
        Thing("stop_sign", "stop sign", (), "a sign", (0, 2), True),
        Thing("car_(automobile)", "car", ("auto", "automobile"), "a motor vehicle", (1,), False),
    )


def test_names_that_are_alike_are_told_apart_or_left_out() -> None:
    names = {thing.label: thing.name for thing in THINGS}
    assert names["bow_(weapon)"] == "bow (weapon)"
    assert names["bow_(decorative_ribbons)"] == "bow (decorative ribbons)"
    assert [thing.name for thing in things_of(["bow", "bow_(weapon)"])] == ["bow", "bow (weapon)"]
    assert [thing.name for thing in things_of(["stop sign", "dog", "stop_sign", "Stop-Sign"])] == ["dog"]


def test_parts_are_no_objects() -> None:
    assert [thing.name for thing in things_of(["dog:ear", "dog", "chair:leg"])] == ["dog"]


@given(st.lists(st.text(max_size=30), max_size=8))
def test_shown_names_are_unique_and_can_be_given_back(labels: list[str]) -> None:
    things = things_of(labels)
    names = [thing.name.casefold() for thing in things]
    assert len(set(names)) == len(names)
    for thing in things:
        assert not set('|[]{}<>\n"`*:_') & set(thing.name)
        assert match(thing.name, things) == thing
        assert [labels[place] for place in thing.instances] == [thing.label] * labels.count(thing.label)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("car", "car_(automobile)"), ("Car.", "car_(automobile)"), ("the CAR", "car_(automobile)"), ("cars", "car_(automobile)"),
        ("car_(automobile)", "car_(automobile)"), ("An automobile", "car_(automobile)"), ('"auto"', "car_(automobile)"),
        ("**car**", "car_(automobile)"), ("car, automobile", "car_(automobile)"), ("the car's", "car_(automobile)"),
        ("stop_sign", "stop_sign"), ("stop-sign", "stop_sign"), ("Stop signs", "stop_sign"), ("stopsign", "stop_sign"),
        ("The answer is: the stop sign", "stop_sign"), ("It's a stop sign.", "stop_sign"),
        ("stop sign (it is red)", "stop_sign"), ("stop sign, because cars must halt"[:9], "stop_sign"),
        ("stop sign - a warning to drivers", "stop_sign"), ("stop sign. It warns.", "stop_sign"),
        ("tshirt", "T-shirt"), ("t shirts", "T-shirt"), ("salt and pepper", "salt_and_pepper"), ("knives", "knife"),
        ("women", "person"), ("children", "person"), ("drinking glasses", "glass_(drink_container)"),
        ("a pair of scissors", "scissors"), ("bow (weapon)", "bow_(weapon)"), ("ｃａｒ", "car_(automobile)"),
    ],
)  # fmt: skip
def test_an_answer_is_understood(answer: str, expected: str) -> None:
    assert label(match(answer, THINGS)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("bow", ["bow_(decorative_ribbons)", "bow_(weapon)"]),
        ("glasses", ["glass_(drink_container)", "spectacles"]),
        ("car and stop sign", ["car_(automobile)", "stop_sign"]),
        ("1. car; 2. knife", None),
        ("car, knife", ["car_(automobile)", "knife"]),
        ("car, not the knife", ["car_(automobile)", "knife"]),
        ("stop sign because the cars must halt", ["car_(automobile)", "stop_sign"]),
    ],
)
def test_what_may_mean_several_is_not_guessed(answer: str, expected: Any) -> None:
    assert label(match(answer, THINGS)) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ".",
        "bus",
        "sign",
        "automobile dealer",
        "Auto fährt",
        "la voiture",
        "carpet",
        "the wheel of the car",
        "car" * 200,
    ],
)
def test_what_is_no_object_is_none(answer: str) -> None:
    assert match(answer, THINGS) is None


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("box", "boxes"), ("bus", "buses"), ("glass", "glasses"), ("watch", "watches"), ("dish", "dishes"), ("shoe", "shoes"),
        ("tomato", "tomatoes"), ("berry", "berries"), ("cookie", "cookies"), ("tie", "ties"),
        ("glove", "gloves"), ("horse", "horses"),
        ("shelf", "shelves"), ("vase", "vases"), ("lens", "lenses"),
        ("mouse", "mice"), ("octopus", "octopuses"), ("toy", "toys"),
        ("quiche", "quiches"), ("axe", "axes"), ("tv", "tvs"), ("person", "people"), ("cake", "cakes"), ("orange", "oranges"),
    ],
)  # fmt: skip
def test_singular_and_plural_have_one_stem(one: str, many: str) -> None:
    assert stem(one) == stem(many)


def test_words_that_are_alike_keep_their_stems_apart() -> None:
    words = [
        "car",
        "care",
        "cart",
        "glass",
        "grass",
        "bus",
        "but",
        "ton",
        "tone",
        "pin",
        "pine",
        "can",
        "cane",
        "dress",
        "dresser",
    ]
    assert len({stem(word) for word in words}) == len(words)


def test_a_name_is_found_in_a_text_but_not_in_a_longer_word() -> None:
    car, person = (next(each for each in THINGS if each.label == name) for name in ("car_(automobile)", "person"))
    assert mentioned("Which of these Cars is parked?", car) == "car"
    assert mentioned("What do the stopsigns tell?", THINGS[1]) == "stop sign"
    assert mentioned("Which carpet is scarce?", car) is None
    assert mentioned("Who are the women?", person) == "woman"


def test_content_words_leave_out_what_names_nothing() -> None:
    scissors = next(each for each in THINGS if each.label == "scissors")
    assert content_words(scissors) == {stem("scissors")}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_meanings_are_read_from_a_file_in_coco_form(tmp_path: Path) -> None:
    categories = [
        {
            "id": 1,
            "name": "car_(automobile)",
            "synonyms": ["car_(automobile)", "auto_(automobile)"],
            "def": "a vehicle",
        },
        {"id": 2, "name": "stop sign", "supercategory": "outdoor"},
    ]
    path = write(tmp_path / "a.json", {"images": [], "annotations": [{"id": 1}], "categories": categories})
    assert meanings_of(path) == {
        "car_(automobile)": Meaning(("car_(automobile)", "auto_(automobile)"), "a vehicle"),
        "stop sign": Meaning(),
    }


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"images": []}, "key 'categories' is missing"),
        ({"categories": [{"id": 1}]}, r"categories\[0\] is .* expected an object with a text 'name'"),
        ({"categories": [{"name": "a", "synonyms": "b"}]}, "'synonyms' is 'b', expected a list of texts"),
        ({"categories": [{"name": "a", "def": 3}]}, "'def' is 3, expected a text"),
        ([], "not JSON"),
    ],
)
def test_a_file_of_another_form_is_told(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        meanings_of(write(tmp_path / "a.json", document))
