"""Questions with several answers: each part of an answer is one object of the list, in order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions.items import Reason
from stages.questions.params import CheckParams, RephraseParams
from stages.questions.requests import Unanswered
from stages.questions.several import read_several, several_request
from tests.stages.questions.pictured import CUP, DOG, SIGN, WOMAN, answer, scene

PARAMS, CHECK = RephraseParams(model="writer", several=2), CheckParams()
SCENE = scene(things=(DOG, CUP, SIGN, WOMAN))
QUESTION = "Which two would spend a morning at home together?"


@pytest.mark.parametrize(
    "objects",
    ["dog | woman", "the dog and the woman", "Dog, Lady.", "hounds; a woman", "dog | person | dog", "dog & woman"],
)
def test_answers_in_many_forms(objects: str) -> None:
    kept, rejected = read_several(
        answer(f"1. **Question**: {QUESTION}\n   **Objects**: {objects}"), SCENE, PARAMS, CHECK, 7
    )
    assert not rejected
    assert [(pair.number, pair.question, pair.labels) for pair in kept] == [(7, QUESTION, ("dog", "person"))]


@given(st.permutations([DOG, CUP, SIGN, WOMAN]), st.integers(2, 4), st.sampled_from([" | ", ", ", "; ", " and "]))
def test_labels_keep_the_order_of_the_answer(things: list, count: int, between: str) -> None:  # type: ignore[type-arg]
    objects = between.join(thing.name for thing in things[:count])
    (pair,), _ = read_several(answer(f"question: {QUESTION}\nobjects: {objects}"), SCENE, PARAMS, CHECK)
    assert pair.labels == tuple(thing.label for thing in things[:count])


@pytest.mark.parametrize(
    ("question", "objects", "reason"),
    [
        (QUESTION, "dog", Reason.UNKNOWN_ANSWER),
        (QUESTION, "dog | hound", Reason.UNKNOWN_ANSWER),
        (QUESTION, "dog | giraffe", Reason.UNKNOWN_ANSWER),
        (QUESTION, "everything", Reason.UNKNOWN_ANSWER),
        ("Which two, the mug and another, belong to breakfast?", "dog | cup", Reason.NAMES_ANSWER),
        ("Which two at the top left spend a morning together?", "dog | cup", Reason.NAMES_PLACE),
        ("Which two?", "dog | cup", Reason.TOO_SHORT),
    ],
)
def test_other_answers_and_questions_are_refused(question: str, objects: str, reason: Reason) -> None:
    kept, rejected = read_several(answer(f"question: {question}\nobjects: {objects}"), SCENE, PARAMS, CHECK, 4)
    assert not kept
    assert [(each.number, each.reason) for each in rejected] == [(4, reason)]


def test_a_name_that_may_mean_two_things_is_no_answer() -> None:
    pan = replace(CUP, label="mug_(other)", name="pot", synonyms=("mug",))
    shown = scene(things=(DOG, CUP, pan))
    kept, rejected = read_several(answer(f"question: {QUESTION}\nobjects: dog | mug"), shown, PARAMS, CHECK)
    assert not kept
    assert [each.reason for each in rejected] == [Reason.UNKNOWN_ANSWER]


def test_what_may_be_more_than_is_annotated_is_no_answer_unless_allowed() -> None:
    shown = scene(things=(DOG, replace(CUP, incomplete=True)))
    said = answer(f"question: {QUESTION}\nobjects: dog | cup")
    assert [each.reason for each in read_several(said, shown, PARAMS, CHECK)[1]] == [Reason.NO_MASK]
    assert len(read_several(said, shown, PARAMS, CheckParams(allow_incomplete=True))[0]) == 1


def test_duplicates_and_more_than_asked_for_are_counted() -> None:
    pairs = [QUESTION, QUESTION.upper(), "Which two are made to be held?", "Which two could be seen from afar?"]
    said = "\n".join(f"question: {question}\nobjects: dog | cup" for question in pairs)
    kept, rejected = read_several(answer(said), SCENE, PARAMS, CHECK)
    assert [pair.number for pair in kept] == [0, 2]
    assert [(each.number, each.reason) for each in rejected] == [(1, Reason.DUPLICATE), (3, Reason.TOO_MANY)]


def test_of_a_cut_reply_only_whole_pairs_are_read() -> None:
    said = f"question: {QUESTION}\nobjects: dog | cup\nquestion: Which two are made to be held?\nobjects: dog | cu"
    kept, rejected = read_several(answer(said, "length"), SCENE, PARAMS, CHECK)
    assert len(kept) == 1
    assert not rejected


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Unanswered("status 400"), Reason.UNANSWERED),
        (answer(""), Reason.NO_TEXT),
        (answer("I cannot."), Reason.NO_PAIRS),
        (answer("objects: dog | cup\nquestion: " + QUESTION), Reason.NO_PAIRS),
    ],
)
def test_a_reply_without_pairs_is_one_rejection(reply: object, reason: Reason) -> None:
    kept, rejected = read_several(reply, SCENE, PARAMS, CHECK)  # type: ignore[arg-type]
    assert not kept
    assert [(each.number, each.reason) for each in rejected] == [(None, reason)]


def test_what_is_sent() -> None:
    request = several_request(SCENE, ["kitchen", "morning"], PARAMS, "writer-1")
    assert request.messages[-1].text.splitlines() == [
        "[Notes]: kitchen | morning",
        "[Objects]: dog | cup | stop sign | woman",
        "[Number]: 2",
    ]
    assert (request.step, request.subject) == ("several", "street/1")
    with pytest.raises(ValueError, match="found 1 things"):
        several_request(scene(things=(DOG,)), "", PARAMS, "writer-1")
