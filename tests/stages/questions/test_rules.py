"""The rules that every question keeps, each by questions that break it and by ones that only look so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions.items import Pair, Reason, Thing
from stages.questions.names import Meaning, things_of
from stages.questions.params import CheckParams
from stages.questions.parse import parse_pairs
from stages.questions.requests import Answer
from stages.questions.rules import check, check_text

PARAMS = CheckParams()
THINGS = things_of(
    ["helmet", "stop_sign", "backpack", "car_(automobile)", "scissors", "person"],
    {
        "car_(automobile)": Meaning(("car_(automobile)", "auto_(automobile)", "automobile")),
        "scissors": Meaning(("scissors", "pair_of_scissors")),
        "person": Meaning(("person", "child", "man", "woman")),
    },
)
BY_LABEL = {thing.label: thing for thing in THINGS}


def pair(question: str, label: str = "helmet", number: int = 0) -> Pair:
    return Pair("i", number, question, label, (label,), question)


def fault(question: str, label: str = "helmet", params: CheckParams = PARAMS) -> Reason | None:
    """What check and check_text agree on."""
    kept, rejected = check([pair(question, label)], THINGS, params)
    found = rejected[0].reason if rejected else None
    assert len(kept) + len(rejected) == 1
    assert check_text(question, BY_LABEL[label], params) == found
    return found


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("What protects the rider in a crash?", "helmet"),
        ("Which of the objects in this picture would you take along to carry food?", "backpack"),
        ("Point out what is used for cutting paper.", "scissors"),
        ("Could you show me who is responsible for the trip?", "person"),
        ("What would keep the sun off if it stood on top of a head?", "helmet"),
        ("What tells drivers that they have no right to go on?", "stop_sign"),
        ("Who has left the house without an umbrella?", "person"),
        ("What is at the bottom of the trouble with parking in this street?", "car_(automobile)"),
        ("Which item, in the middle of the journey, would be opened for lunch?", "backpack"),
        ("What do you need to fix a corner of the tent's cloth that is too long?", "scissors"),
        ("What carpet-like roughness would protect best on the café's naïve stage?", "car_(automobile)"),
    ],
)
def test_a_good_question_is_kept(question: str, label: str) -> None:
    assert fault(question, label) is None


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("Which sign makes drivers wait?", "stop_sign"),
        ("What makes everybody stop here?", "stop_sign"),
        ("Who wears these Helmets on a ride?", "helmet"),
        ("What is a helmet's use?", "helmet"),
        ("Which automobile would be the fastest?", "car_(automobile)"),
        ("Which of the autos is for hire?", "car_(automobile)"),
        ("Who is the woman waiting for?", "person"),
        ("Which of the children would be hungry?", "person"),
        ("What back pack would they take?", "backpack"),
        ("Which back-pack would they take?", "backpack"),
        (
            "Which of these ｈｅｌｍｅｔs would the young rider have taken along if there had been time to think?",
            "helmet",
        ),
    ],
)
def test_a_question_that_names_its_answer_is_rejected(question: str, label: str) -> None:
    assert fault(question, label) == Reason.NAMES_ANSWER


@pytest.mark.parametrize(
    ("question", "label", "expected"),
    [
        ("Which sign makes drivers wait?", "stop_sign", None),
        ("Which stop signs make drivers wait?", "stop_sign", Reason.NAMES_ANSWER),
        ("Which stopsign makes drivers wait?", "stop_sign", Reason.NAMES_ANSWER),
        ("Which pair would you use to cut paper?", "scissors", None),
    ],
)
def test_whole_names_alone_may_be_what_counts(question: str, label: str, expected: Reason | None) -> None:
    assert fault(question, label, CheckParams(names="name")) == expected


@pytest.mark.parametrize(
    "question",
    [
        "What protects the head of the rider on the left?", "Who is standing to the right of the others?",
        "What protects the one on the right side?", "Which is the leftmost thing that protects?",
        "What is used for protection at the top?", "What is used at the bottom of the picture for protection?",
        "What would protect you in the top left corner?", "Which object in the background would protect a rider?",
        "What can be seen in the foreground that would protect?", "What is in the upper half that would protect?",
        "What would protect you in the middle of this image?", "Which thing in the center would protect you?",
        "Which thing closest to the camera would protect you?", "What would protect you at (120, 40)?",
        "What would protect you with x = 120?", "What, on the far left, would protect the rider?",
        "Which object on the left-hand side would protect?", "Which object in the corner would protect you?",
        "What protects the people in the back-ground?", "What is used at the right edge of the photo?",
    ],
)  # fmt: skip
def test_a_question_that_says_where_is_rejected(question: str) -> None:
    assert fault(question) == Reason.NAMES_PLACE
    assert fault(question, params=CheckParams(places=False)) is None


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What protects?", Reason.TOO_SHORT),
        ("Which of them " + "really " * 50 + "protects?", Reason.TOO_LONG),
        ("Which of them " + "x" * 1_000_000 + " protects?", Reason.TOO_LONG),
        ("¿Qué objeto protege la cabeza del ciclista?", Reason.LANGUAGE),
        ("Was schützt den Kopf des Fahrers im Falle eines Sturzes?", Reason.LANGUAGE),
        ("Quel objet protège la tête en cas de chute?", Reason.LANGUAGE),
        ("Welk voorwerp beschermt het hoofd van een fietser?", Reason.LANGUAGE),
        ("Что защищает голову the that which?", Reason.LANGUAGE),
        ("什么 东西 可以 保护 头部 吗?", Reason.LANGUAGE),
        ("What protects [SEG] the rider here?", Reason.MARKUP),
        ("What protects the rider here?</s>", Reason.MARKUP),
        ("What protects the rider? ASSISTANT: it", Reason.MARKUP),
        ("What protects <|im_end|> the rider here?", Reason.MARKUP),
        ("What protects \x07 the rider here?", Reason.MARKUP),
        ("What protects \u202e the rider here?", Reason.MARKUP),
        ("What protects <b>the</b> rider here?", Reason.MARKUP),
        ("What protects the rider, as https://a.b tells?", Reason.MARKUP),
        ("What protects the rider {here} now?", Reason.MARKUP),
    ],
)
def test_a_question_of_another_kind_is_rejected(question: str, expected: Reason) -> None:
    assert fault(question) == expected


def test_facts_of_the_papers_own_example() -> None:
    """It breaks the rules that it illustrates: a word of the answer, an answer that was not asked for, full stops and "_"."""
    said = (
        "1. [Q]: What might the climbers carry on their shoulders? [A]: helmet.\n"
        "2. [Q]: Which sign would they have to obey on the road? [A]: stop_sign."
    )
    pairs, unread = parse_pairs("i", Answer(said, "stop", "m", 0, 0, 0.0), THINGS)
    assert unread == []
    assert [each.labels for each in pairs] == [("helmet",), ("stop_sign",)], "dots and underscores are read"
    kept, rejected = check(pairs, THINGS, PARAMS)
    assert [(each.number, each.reason, each.detail) for each in rejected] == [(1, Reason.NAMES_ANSWER, "sign")]
    assert [each.number for each in kept] == [0], "no rule sees that a helmet is not carried there: the verifier has to"


def test_at_most_two_questions_have_the_same_answer() -> None:
    questions = ["What protects the rider?", "What would break a fall?", "What is used at work up there?"]
    kept, rejected = check([pair(each, number=number) for number, each in enumerate(questions)], THINGS, PARAMS)
    assert [each.number for each in kept] == [0, 1]
    assert [(each.number, each.reason, each.detail) for each in rejected] == [(2, Reason.TOO_MANY, "helmet: 2 before")]


def test_a_rejected_question_does_not_count_towards_the_two() -> None:
    questions = ["What protects?", "What protects the rider?", "What would break a fall?"]
    kept, rejected = check([pair(each, number=number) for number, each in enumerate(questions)], THINGS, PARAMS)
    assert [each.number for each in kept] == [1, 2]
    assert [each.reason for each in rejected] == [Reason.TOO_SHORT]


def test_the_same_question_again_is_rejected() -> None:
    kept, rejected = check(
        [pair("What protects the rider?"), pair("what  protects, the rider", number=1)], THINGS, PARAMS
    )
    assert [each.number for each in kept] == [0]
    assert [each.reason for each in rejected] == [Reason.DUPLICATE]


def test_a_question_with_two_answers_has_none() -> None:
    kept, rejected = check([pair("What would they need?"), pair("What would they need", "scissors", 1)], THINGS, PARAMS)
    assert kept == []
    assert [(each.reason, each.detail) for each in rejected] == [
        (Reason.DUPLICATE, "asked with other answers: helmet; scissors")
    ] * 2


def test_what_is_annotated_in_part_is_no_answer() -> None:
    things = tuple(replace(thing, incomplete=True) for thing in THINGS)
    good = [pair("What protects the rider?")]
    kept, rejected = check(good, things, PARAMS)
    assert (kept, [each.reason for each in rejected]) == ([], [Reason.NO_MASK])
    assert check(good, things, CheckParams(allow_incomplete=True)) == (good, [])


def test_an_answer_that_the_image_does_not_show_is_rejected() -> None:
    kept, rejected = check([pair("What protects the rider?", "zebra")], THINGS, PARAMS)
    assert (kept, [each.reason for each in rejected]) == ([], [Reason.UNKNOWN_ANSWER])


@given(st.lists(st.tuples(st.text(max_size=60), st.sampled_from([*BY_LABEL, "zebra"])), max_size=8))
def test_every_pair_is_kept_or_rejected_once(said: list[tuple[str, str]]) -> None:
    pairs = [pair(question, label, number) for number, (question, label) in enumerate(said)]
    kept, rejected = check(pairs, THINGS, PARAMS)
    assert sorted(
        [each.number for each in kept] + [each.number for each in rejected if each.number is not None]
    ) == list(range(len(pairs)))
    assert check(kept, THINGS, PARAMS) == (kept, []), "what was kept keeps the rules"


def test_a_thing_whose_name_is_made_of_common_words_is_found_as_a_whole() -> None:
    thing = Thing("piece of part", "piece of part", (), "", (0,))
    assert check_text("Which piece would you use for that?", thing, PARAMS) is None
    assert check_text("Which piece of part would you use?", thing, PARAMS) == Reason.NAMES_ANSWER
