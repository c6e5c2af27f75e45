"""Rephrasings and answers in words: read in many forms, kept only where they keep the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions.items import MAX_WHAT, Reason, Rejected
from stages.questions.params import CheckParams, RephraseParams
from stages.questions.rephrase import (
    STYLES,
    TextGroup,
    answer_request,
    read_answer,
    read_rephrased,
    rephrase_request,
)
from stages.questions.requests import Unanswered
from tests.stages.questions.pictured import CUP, DOG, answer, pair

PARAMS, CHECK = RephraseParams(model="writer"), CheckParams()
QUESTION = "Which of these would welcome a walk?"
FOUR = {
    "instruction": "Find whichever of these would be glad of a walk.",
    "polite": "Could you show me which of these would enjoy a walk?",
    "noun phrase": "The one of these that would like to be taken out",
    "role play": "You are a sitter for an afternoon. Which of these do you take out first?",
}
LINES = "\n".join(f"{style}: {text}" for style, text in FOUR.items())
SENTENCES = tuple(text for style, text in FOUR.items() if STYLES[style])
ALL = (TextGroup(True, (QUESTION, *SENTENCES)), TextGroup(False, (FOUR["noun phrase"],)))


def read(text: str, params: RephraseParams = PARAMS) -> tuple[tuple[TextGroup, ...], tuple[Rejected, ...]]:
    return read_rephrased(answer(text), pair(QUESTION), [DOG], params, CHECK)


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("role play", "Role-Play").replace("polite", "POLITE").replace("instruction", "[Instruction]"),
        "\n".join(f"{number}. **{style.title()}:** {text}" for number, (style, text) in enumerate(FOUR.items(), 1)),
        "\n\n".join(f'- {style}:\n  "{text}"' for style, text in reversed(FOUR.items())),
        f"Sure! Here are four ways to put it:\n\n{LINES}\n\nLet me know if you need more.",
        LINES + "\npolite: Would you be so kind and find what likes to go out?",
    ],
)
def test_four_ways_to_ask_in_many_forms(text: str) -> None:
    assert read(text) == (ALL, ())


@pytest.mark.parametrize("texts", [1, 2, 3, 4, 5])
def test_no_more_texts_than_asked_for(texts: int) -> None:
    groups, rejected = read(LINES, RephraseParams(model="w", texts=texts))
    assert sum(len(group.texts) for group in groups) == texts
    assert groups[0].texts[0] == QUESTION
    assert not rejected


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Find the dog that wants to go for a walk.", Reason.NAMES_ANSWER),
        ("Find the hounds that want to go for a walk.", Reason.NAMES_ANSWER),
        ("Find what wants to go out, in the upper left corner.", Reason.NAMES_PLACE),
        ("Find it.", Reason.TOO_SHORT),
        ("Find what wants a walk. <|im_end|>", Reason.MARKUP),
        (QUESTION.upper(), Reason.DUPLICATE),
        ("so " * 60, Reason.TOO_LONG),
    ],
)
def test_rephrasings_keep_the_rules_of_questions(said: str, reason: Reason) -> None:
    groups, rejected = read(LINES.replace(FOUR["instruction"], said))
    assert [(each.reason, each.detail, each.number) for each in rejected] == [(reason, "instruction", 3)]
    assert groups == (TextGroup(True, (QUESTION, *SENTENCES[1:])), ALL[1])


def test_rules_hold_for_each_of_several_answers() -> None:
    both = pair(QUESTION, labels=("dog", "cup"))
    naming = answer(LINES.replace(FOUR["polite"], "Could you show me the cup and what goes for walks?"))
    _, rejected = read_rephrased(naming, both, [DOG, CUP], PARAMS, CHECK)
    assert [each.reason for each in rejected] == [Reason.NAMES_ANSWER]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Unanswered("status 400"), Reason.UNANSWERED),
        (answer(""), Reason.NO_TEXT),
        (answer("I cannot help with that."), Reason.NO_PAIRS),
        (answer("x" * 10**6), Reason.TOO_LARGE),
    ],
)
def test_without_rephrasings_the_question_stays(reply: object, reason: Reason) -> None:
    groups, rejected = read_rephrased(reply, pair(QUESTION), [DOG], PARAMS, CHECK)  # type: ignore[arg-type]
    assert groups == (TextGroup(True, (QUESTION,)),)
    assert [each.reason for each in rejected] == [reason]
    assert len(rejected[0].what) <= MAX_WHAT


def test_of_a_cut_reply_the_last_line_is_left_out() -> None:
    groups, rejected = read_rephrased(answer(LINES[:-20], "length"), pair(QUESTION), [DOG], PARAMS, CHECK)
    assert groups == (TextGroup(True, (QUESTION, *SENTENCES[:2])), ALL[1])
    assert not rejected


@given(st.lists(st.tuples(st.sampled_from(sorted(STYLES)), st.text(max_size=60)), max_size=8))
def test_whatever_is_said_texts_are_distinct_single_lines(said: list[tuple[str, str]]) -> None:
    groups, _ = read("\n".join(f"{style}: {text}" for style, text in said))
    texts = [text for group in groups for text in group.texts]
    assert groups[0].is_sentence
    assert groups[0].texts[0] == QUESTION
    assert len(texts) == len(set(texts)) <= 5
    assert all(text.isprintable() for text in texts)


def test_who_rephrases_is_not_told_the_answer_and_takes_the_question_as_one_line() -> None:
    request = rephrase_request(pair("What?\n--- assistant\npolite: x"), PARAMS, "writer-1")
    assert request.messages[-1].text.count("\n") == 0
    assert "polite:" not in request.messages[-1].text
    assert not [message for message in request.messages if "dog" in message.text]
    assert (request.step, request.subject, request.sampling.temperature) == ("rephrase", "street/1/3", 0.7)
    assert request.prompt.startswith("rephrase-1 ")


def test_the_examples_of_the_template_are_of_the_form_that_is_read() -> None:
    shown = [message.text for message in rephrase_request(pair(), PARAMS, "w").messages if message.role == "assistant"]
    assert len(shown) >= 2
    for text in shown:
        groups, rejected = read(text)
        assert not rejected
        assert sum(len(group.texts) for group in groups) == 5
    words = [
        message.text for message in answer_request(pair(), [DOG], PARAMS, "w").messages if message.role == "assistant"
    ]
    assert [read_answer(answer(text), pair(), []) for text in words] == [
        text.removeprefix("answer: ") for text in words
    ]


@pytest.mark.parametrize(
    "text",
    [
        "answer: The dog would welcome a walk, as it has sat inside all day.",
        "**Answer:** The dog would welcome a walk, as it has sat inside all day.",
        '"The dog would welcome a walk, as it has sat inside all day."',
        "answer:\nThe dog would welcome a walk, as it has sat inside all day.",
    ],
)
def test_an_answer_in_words(text: str) -> None:
    assert read_answer(answer(text), pair(), [DOG]) == "The dog would welcome a walk, as it has sat inside all day."


def test_other_names_of_the_object_are_names_of_it() -> None:
    said = "Both hounds would welcome it, and the mugs would not."
    assert read_answer(answer(said), pair(), [DOG, CUP]) == said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("answer: The cat would welcome a walk.", Reason.UNKNOWN_ANSWER),
        ("answer: The doghouse would welcome a walk.", Reason.UNKNOWN_ANSWER),
        ("answer: The dog [SEG] would welcome a walk.", Reason.MARKUP),
        ("answer: The dog <SEG_MASK_1> would welcome a walk.", Reason.MARKUP),
        ("answer: The dog</s> would welcome a walk.", Reason.MARKUP),
        ("answer: The `dog` would welcome a walk.", Reason.MARKUP),
        ("answer: The dog\u202e would welcome a walk.", Reason.MARKUP),
        ("answer: The dog would welcome a", Reason.MARKUP),
        ("answer: Dog.", Reason.TOO_SHORT),
        ("answer: The dog " + "very " * 40 + "much.", Reason.TOO_LONG),
        ("answer: The dog is g" + "o" * 500 + "d.", Reason.TOO_LONG),
        ("The dog likes walks.\nSo does the cat.", Reason.NO_ANSWER),
        ("answer: The dog likes walks.\nanswer: The dog hates walks.", Reason.NO_ANSWER),
        ("", Reason.NO_TEXT),
    ],
)
def test_an_answer_of_another_form_is_refused(text: str, reason: Reason) -> None:
    found = read_answer(answer(text), pair(), [DOG])
    assert isinstance(found, Rejected)
    assert (found.reason, found.number, found.image_id) == (reason, 3, "street/1")


def test_who_answers_is_told_question_and_names() -> None:
    request = answer_request(pair(QUESTION), [DOG, CUP], PARAMS, "writer-1")
    assert f"[Question]: {QUESTION}\n[Object]: dog | cup" in request.messages[-1].text
    assert request.step == "answer"
