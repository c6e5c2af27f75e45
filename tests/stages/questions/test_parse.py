"""Answers of askers, in the forms that models give them, whole, broken and hostile."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.questions.items import Pair, Reason, Rejected
from stages.questions.names import Meaning, things_of
from stages.questions.parse import MAX_CHARACTERS, MAX_LINES, MAX_PAIRS, parse_pairs
from stages.questions.requests import Answer, Reply, Unanswered

THINGS = things_of(
    ["chair", "dog", "traffic_light", "car_(automobile)", "salt_and_pepper"],
    {"car_(automobile)": Meaning(("car_(automobile)", "auto_(automobile)"))},
)
SIT, BARK = ("What can one sit on?", "chair"), ("Who would wake up first?", "dog")


def said(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text, finish_reason, "m", 0, 0, 0.0)


def parsed(text: str, finish_reason: str = "stop") -> tuple[list[Pair], list[Rejected]]:
    return parse_pairs("i", said(text, finish_reason), THINGS)


def pairs_of(text: str, finish_reason: str = "stop") -> list[tuple[str, str]]:
    pairs, rejected = parsed(text, finish_reason)
    assert rejected == []
    return [(pair.question, pair.labels[0]) for pair in pairs]


def reasons_of(text: str, finish_reason: str = "stop") -> dict[int | None, Reason]:
    return {each.number: each.reason for each in parsed(text, finish_reason)[1]}


@pytest.mark.parametrize(
    "text",
    [
        "1. [Q]: What can one sit on? [A]: chair\n2. [Q]: Who would wake up first? [A]: dog",
        "1) [Q]: What can one sit on? [A]: chair.\n2) [Q]: Who would wake up first? [A]: dog.",
        "[Q]: What can one sit on? [A]: chair [Q]: Who would wake up first? [A]: dog",
        "Sure! Here are 2 Q&A:\n\n1) What can one sit on? chair\n2) Who would wake up first?\n   The dogs",
        "**[Q]:** What can one sit on?\n**[A]:** Chair\n\n**[Q]:** Who would wake up first?\n**[A]:** `dog`\n\nBye!",
        "Q1. What can one sit on? A1. chairs.\nQ2. Who would wake up first? A2. the dog",
        "**Q1:** What can one sit on?\n**A1:** chair\n---\n**Q2:** Who would wake up first?\n**A2:** dog",
        "Question 1: What can one sit on?\r\nAnswer 1: chair\r\n\r\nQuestion 2: Who would wake up first?\r\nAnswer 2: dog\r\n",
        "### Question 1\nWhat can one sit on?\n### Answer\nchair\n\n### Question 2\nWho would wake up first?\n### Answer\ndog",
        "1. **What can one sit on?** - **chair**\n2. **Who would wake up first?** → dog, since it hears well",
        "- What can one sit on? -> chair\n- Who would wake up first? => dog",
        "* [Q]: What can one sit on?\n  [A]: chair\n  A good place for a rest.\n* [Q]: Who would wake up first?\n  [A]: dog",
        "| # | Question | Answer |\n|---|---|---|\n| 1 | What can one sit on? | chair |\n| 2 | Who would wake up first? | dog |",
        "１．【Q】：What can one sit on？【A】：chair。\n２）［Q］：Who would wake up first？［A］：dog",
        "<question> What can one sit on? </question> <answer> chair </answer>\n<question>Who would wake up first?<answer>dog",
        "[Questions]:\n1. [Q]: What can one\nsit on? [A]: chair\n2. [Q]:\nWho would wake up first?\n[A]:\ndog",
        '1. [Q]: "What can one sit on?" [A]: "chair"\n2. [Q]: “Who would wake up first?” [A]: “dog”',
        "<think>Q: is there a cat? A: no</think>\n[Q]: What can one sit on? [A]: chair\n[Q]: Who would wake up first? [A]: dog",
        '[{"question": "What can one sit on?", "answer": "chair"}, {"answer": ["dog"], "question": "Who would wake up first?"}]',
        '```json\n{"pairs": [{"Q": "What can one sit on?", "A": "chair",},\n {"Q": "Who would wake up first?", "A": "dog"}]}\n```',
        '{"question": "What can one sit on?", "answer": "chair"}\n{"question": "Who would wake up first?", "answer": "the dog."}',
        "```\n1. [Q]: What can one sit on? [A]: chair\n2. [Q]: Who would wake up first? [A]: dog\n```",
        "\u200b1. [Q]: What can one sit on? [A]: chair\u2028\ufeff2. [Q]: Who would wake up first? [A]: dog",
    ],
)  # fmt: skip
def test_a_form_that_models_use_is_read(text: str) -> None:
    assert pairs_of(text) == [SIT, BARK]


def test_a_question_need_not_end_in_a_question_mark() -> None:
    text = "1. [Q]: Tired? Point out what\nto rest on. [A]: chair\n2. The one who guards the house -> dog"
    assert pairs_of(text) == [("Tired? Point out what to rest on.", "chair"), ("The one who guards the house", "dog")]


def test_synonyms_and_labels_are_understood_and_nothing_else() -> None:
    text = "[Q]: Which one? [A]: an auto\n[Q]: Which? [A]: traffic_light\n[Q]: And? [A]: salt and pepper\n[Q]: Now? [A]: sofa"
    pairs, rejected = parsed(text)
    assert [pair.labels for pair in pairs] == [("car_(automobile)",), ("traffic_light",), ("salt_and_pepper",)]
    assert [(each.number, each.reason, each.detail) for each in rejected] == [(3, Reason.UNKNOWN_ANSWER, "sofa")]


def test_what_was_read_is_kept() -> None:
    pairs, _ = parsed("1. [Q]: What can one sit on?\n   **[A]**: the _chair_ (soft)\nBye")
    assert pairs == [
        Pair("i", 0, SIT[0], "the _chair_ (soft)", ("chair",), "[Q]: What can one sit on?\n[A]**: the _chair_ (soft)")
    ]


FAILURES: list[tuple[str, dict[int | None, Reason]]] = [
    ("1. [Q]: What can one sit on?\n2. [Q]: Who barks? [A]: dog", {0: Reason.NO_ANSWER}),
    ("1. [Q]: What can one sit on? [A]:\n2. [Q]: Who barks? [A]: dog", {0: Reason.NO_ANSWER}),
    ("1. [A]: chair\n2. [Q]: Who barks? [A]: dog", {0: Reason.NO_QUESTION}),
    ("[Q]: Who can move? [A]: dog, car", {0: Reason.SEVERAL_ANSWERS}),
    ("[Q]: Who can move? [A]: dog and car", {0: Reason.SEVERAL_ANSWERS}),
    ("[Q]: Who can move?\n[A]:\n- dog\n- car", {0: Reason.SEVERAL_ANSWERS}),
    ("[Q]: Who can move?\n[A]: dog\n- car", {0: Reason.SEVERAL_ANSWERS}),
    ('[{"question": "Who can move?", "answer": ["dog", "car"]}]', {0: Reason.SEVERAL_ANSWERS}),
    ("[Q]: Who can move? [A]: bus", {0: Reason.UNKNOWN_ANSWER}),
    ("[Q]: Wer bellt? [A]: der Hund", {0: Reason.UNKNOWN_ANSWER}),
    ("I'm sorry, but I can't help with that.", {None: Reason.REFUSAL}),
    ("As an AI, I do not see pictures.", {None: Reason.REFUSAL}),
    ("The picture shows a chair.", {None: Reason.NO_PAIRS}),
    ('{"name": "draw_box", "arguments": {"x": 3}}', {None: Reason.NO_PAIRS}),
    ("", {None: Reason.NO_TEXT}),
    (" \n", {None: Reason.NO_TEXT}),
    ("x" * (MAX_CHARACTERS + 1), {None: Reason.TOO_LARGE}),
    ("\n" * (MAX_LINES + 1) + "x", {None: Reason.TOO_LARGE}),
    ("[Q]: Who barks? [A]: dog\n" * (MAX_PAIRS + 1), {None: Reason.TOO_LARGE}),
]


@pytest.mark.parametrize(("text", "expected"), FAILURES)
def test_a_failure_is_rejected_with_its_reason(text: str, expected: dict[int | None, Reason]) -> None:
    pairs, rejected = parsed(text)
    assert {each.number: each.reason for each in rejected} == expected
    assert [(pair.question, pair.answer) for pair in pairs] == ([("Who barks?", "dog")] if "2. [Q]" in text else [])
    assert all(len(each.what) <= 400 and len(each.detail) <= 400 for each in rejected)


@pytest.mark.parametrize(
    ("reply", "reason", "detail"),
    [
        (Unanswered("status 400: no such model"), Reason.UNANSWERED, "status 400: no such model"),
        (said("", "tool_calls"), Reason.NO_TEXT, "tool_calls"),
        (said("", "content_filter"), Reason.REFUSAL, "content_filter"),
        (said("", "length"), Reason.NO_TEXT, "length"),
    ],
)
def test_a_reply_without_text_is_rejected_as_a_whole(reply: Reply, reason: Reason, detail: str) -> None:
    assert parse_pairs("i", reply, THINGS) == ([], [Rejected("i", None, reason, "", detail)])


WHOLE = "1. [Q]: What can one sit on? [A]: chair\n2. [Q]: What tells drivers to wait? [A]: traffic light\n"
ASKED = (
    '[{"question": "What can one sit on?", "answer": "chair"}, {"question": "Why wait?", "answer": "traffic light"}]'
)


@pytest.mark.parametrize("text", [WHOLE, ASKED])
def test_cut_anywhere_no_pair_is_read_that_was_not_said(text: str) -> None:
    """A cut answer such as ``[A]: car`` may be the beginning of another name: only what is surely whole is a pair."""
    things = things_of(["chair", "traffic light", "traffic"])
    complete, _ = parse_pairs("i", said(text), things)
    for length in range(len(text)):
        pairs, rejected = parse_pairs("i", said(text[:length], "length"), things)
        assert [(pair.question, pair.labels) for pair in pairs] in [
            [(pair.question, pair.labels) for pair in complete[:count]] for count in range(3)
        ]
        reasons = {each.reason for each in rejected}
        assert reasons <= {Reason.CUT, Reason.NO_TEXT, Reason.NO_PAIRS}
        assert pairs or rejected


def test_an_answer_with_its_full_stop_is_complete() -> None:
    assert pairs_of("[Q]: Who barks? [A]: dog.", "length") == [("Who barks?", "dog")]
    assert reasons_of("[Q]: Who barks? [A]: dog", "length") == {0: Reason.CUT}
    assert reasons_of("[Q]: Who barks? [A]: dog\n[Q]: What can one si", "length") == {1: Reason.CUT}


FORMS: dict[str, Callable[[int, str, str], str]] = {
    "paper": lambda n, q, a: f"{n}. [Q]: {q} [A]: {a}\n",
    "lines": lambda n, q, a: f"{n}) [Q]: {q}\n[A]: {a}.\n\n",
    "bold": lambda n, q, a: f"**{n}. [Q]:** {q}\n   **[A]:** **{a}**\n",
    "numbered": lambda n, q, a: f"Q{n}. {q}\nA{n}. The {a}s\n",
    "words": lambda n, q, a: f"Question {n}: {q} Answer: {a.upper()}\r\n",
    "bullets": lambda n, q, a: f"- {q} -> {a}\n",
    "bare": lambda n, q, a: f"({n}) {q}\n    {a}\n\n",
    "tags": lambda n, q, a: f"<question> {q} <answer> {a}\n",
    "wide": lambda n, q, a: f"{n}．［Q］：{q.replace('?', '？')}　［A］：{a}。\n",
    "quoted": lambda n, q, a: f'{n}. "{q}" - "{a}"\n',
    "table": lambda n, q, a: f"| {n} | {q} | {a} |\n",
    "json": lambda n, q, a: json.dumps({"question": q, "answer": a}) + ",\n",
    "indented json": lambda n, q, a: json.dumps({"answer": a, "question": q}, indent=2) + "\n",
}
WORDS = st.sampled_from(
    [
        "what",
        "which",
        "one",
        "would",
        "keep",
        "you",
        "a",
        "dry",
        "it's",
        "well-made",
        "at 9",
        "here",
        "3.5",
        "(soft)",
        "q",
        "answer",
    ]
)
QUESTIONS = st.lists(WORDS, min_size=2, max_size=9).map(" ".join).map(lambda text: f"Who {text}?")
PAIRS = st.lists(
    st.tuples(QUESTIONS, st.sampled_from(["chair", "dog", "traffic light", "car"])), min_size=1, max_size=5
)


@given(PAIRS, st.sampled_from(sorted(FORMS)), st.sampled_from(["", "Sure! Here they are:\n\n", "```\n", "[Questions]:\n"]),
       st.sampled_from(["", "\nI hope this helps!", "```\n"]))  # fmt: skip
def test_the_same_pairs_are_read_from_every_form(
    pairs: list[tuple[str, str]], form: str, before: str, after: str
) -> None:
    text = before + "".join(FORMS[form](number, *pair) for number, pair in enumerate(pairs, start=1)) + after
    found, rejected = parsed(text)
    names = {thing.label: thing.name for thing in THINGS}
    assert rejected == []
    assert [(pair.question, names[pair.labels[0]]) for pair in found] == pairs
    assert [pair.number for pair in found] == list(range(len(pairs)))


PIECES = st.sampled_from(
    ["[Q]:", "[A]:", "Q1.", "A:", "?", "\n", "dog", "chair", "1. ", "- ", '"question": ', '"answer": ', '"', "[", "]", "{", "}",
     ",",
     "->", "**", "```json\n", "<question>", "</answer>", "\\", "|", "\r", "\x00", "\ud800", "，", "what is it", " ", "</think>"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=200), st.sampled_from(["stop", "length", "odd"]))
@example('"question": "\\', "length")
@example('"question": ["a", "answer": "dog"}', "stop")
def test_nothing_crashes_and_everything_is_accounted_for(text: str, finish_reason: str) -> None:
    pairs, rejected = parsed(text, finish_reason)
    numbers = sorted([pair.number for pair in pairs] + [each.number for each in rejected if each.number is not None])
    assert pairs or rejected
    assert numbers == list(range(len(numbers)))
    for pair in pairs:
        assert pair.question
        assert "\n" not in pair.question
        assert set(pair.labels) <= {thing.label for thing in THINGS}
    assert (pairs, rejected) == parsed(text, finish_reason)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Break off what takes far longer than work that grows with the text: quadratic work on a megabyte takes hours."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


HEAVY = [
    "?", "a\n" * 40, "[Q]:", "*", "- ", "1. ", '"question":"', '"question":[', '"question":["', '"question":["a"', '"question" ',
    "{",     '"question":"\\', "<", "Q: a ", "What is it? dog, the one that " * 9 + "\n", "  ", "->", "[ ", "answer ", "（",
]  # fmt: skip


@pytest.mark.parametrize("unit", HEAVY)
def test_a_megabyte_of_anything_is_read_or_refused(unit: str) -> None:
    text = (unit * (MAX_CHARACTERS // len(unit) + 1))[:MAX_CHARACTERS]
    with within(20):
        pairs, rejected = parsed(text)
    assert len(pairs) + len(rejected) <= MAX_PAIRS
    assert rejected


def test_many_pairs_with_long_answers_are_read() -> None:
    things = things_of([f"thing {number}" for number in range(200)])
    text = "".join(f"[Q]: Who? [A]: thing {number % 200}. {'And so on ' * 25}\n" for number in range(MAX_PAIRS))
    with within(20):
        pairs, _ = parse_pairs("i", said(text), things)
    assert len(pairs) == MAX_PAIRS
