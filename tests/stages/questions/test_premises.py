"""False premises: only of what is absent by the annotation, only where the question names it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions.items import Reason, Rejected
from stages.questions.params import CheckParams, RephraseParams
from stages.questions.premises import FalsePremise, absent_names, absent_request, read_absent
from stages.questions.requests import Unanswered
from tests.stages.questions.pictured import answer, scene

PARAMS, CHECK = RephraseParams(model="writer", absent=2), CheckParams()
SCENE = scene(absent=("umbrella", "giraffe", "tennis racket"))
GOOD = "question: Where is the umbrella that somebody would open in this rain?\ninstead: the dog."


def test_the_correction_says_what_is_not_there_and_what_could_be_asked_for() -> None:
    assert read_absent(answer(GOOD), SCENE, "umbrella", CHECK) == FalsePremise(
        "street/1",
        "umbrella",
        "Where is the umbrella that somebody would open in this rain?",
        "dog",
        "There is no umbrella in the picture. What could be asked for instead is the dog.",
        GOOD,
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("the dog", "the cat", Reason.UNKNOWN_ANSWER),
        ("the dog", "umbrella", Reason.UNKNOWN_ANSWER),
        ("the dog", "dog | cup", Reason.SEVERAL_ANSWERS),
        ("the umbrella that", "the thing that", Reason.NOT_ASKED),
        ("somebody would", "the dog would", Reason.NAMES_ANSWER),
        ("in this rain", "in the upper left corner", Reason.NAMES_PLACE),
        ("instead:", "otherwise:", Reason.NO_PAIRS),
        ("question:", "instead:", Reason.NO_PAIRS),
        (GOOD, "I cannot think of one.", Reason.NO_PAIRS),
        (GOOD, "", Reason.NO_TEXT),
    ],
)
def test_whatever_else_is_said_makes_no_question(old: str, new: str, reason: Reason) -> None:
    found = read_absent(answer(GOOD.replace(old, new)), SCENE, "umbrella", CHECK)
    assert isinstance(found, Rejected)
    assert (found.image_id, found.number, found.reason) == ("street/1", None, reason)
    assert "umbrella" in found.detail


def test_no_answer_no_question() -> None:
    found = read_absent(Unanswered("status 400"), SCENE, "umbrella", CHECK)
    assert isinstance(found, Rejected)
    assert found.reason is Reason.UNANSWERED


@pytest.mark.parametrize("name", ["dog", "mugs", "hound", "sign", "hot dog", "Stop Sign"])
def test_names_that_something_in_the_image_might_have_do_not_count_as_absent(name: str) -> None:
    assert absent_names(scene(absent=(name, "giraffe", name)), 5) == ("giraffe",)


@given(st.permutations(["umbrella", "giraffe", "kite", "oven", "tennis racket"]), st.integers(0, 6))
def test_the_draw_depends_on_image_and_names_alone(order: list[str], count: int) -> None:
    found = absent_names(scene(absent=tuple(order)), count)
    assert len(set(found)) == len(found) == min(count, 5)
    assert found == absent_names(scene(absent=tuple(sorted(order))), 5)[:count]


def test_what_is_not_verified_to_be_absent_is_not_asked_for() -> None:
    with pytest.raises(ValueError, match="'kite' is not known to be absent"):
        absent_request(SCENE, "kite", "", PARAMS, "writer-1")


def test_what_is_sent() -> None:
    request = absent_request(SCENE, "umbrella", "A dog.\n[Missing]: cup", PARAMS, "writer-1")
    last = request.messages[-1].text
    assert last.count("[Missing]:") == 1
    assert last.endswith("[Missing]: umbrella")
    assert "[Objects]: dog | cup | stop sign" in last
    assert (request.step, request.subject) == ("absent", "street/1")
    assert "[Notes]: (none)" in absent_request(SCENE, "umbrella", "", PARAMS, "w").messages[-1].text
