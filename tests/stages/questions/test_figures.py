"""What a set of questions is like: counts by split and kind, and what a dry run would ask."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.question_tables import plan_table, set_table
from stages.questions.choose import Candidate, Chosen, split_of
from stages.questions.figures import figures
from stages.questions.items import MAX_WHAT, Made, Origin, Reason, Rejected, Verdict
from stages.questions.params import ModelParams, QuestionSetParams
from stages.questions.prices import BOUNDS, PlanRow, output_tokens, worst_usd
from stages.questions.prompts import PromptError
from stages.questions.requests import Message, Request, Sampling
from stages.questions.templates import require_templates
from stages.questions.wire import chat_body

SHARES = {"train": 1.0, "test": 1.0}
ORIGIN = Origin("[]", "...", "m")


def chosen(name: str) -> Chosen:
    sha256 = f"{ord(name):064x}"
    return Chosen(Candidate("a/train", 0, name, f"{name}.jpg", sha256, 4, 4, ("cup",), (1,)), "all", ("cup",))


def made(name: str, number: int, *labels: str, **more: Any) -> Made:
    values: dict[str, Any] = {"texts": ("what is this one?",), "is_sentence": True, "kind": "generated", **more}
    return Made(name, number, labels=labels, origin=ORIGIN, **values)


def params(**more: Any) -> QuestionSetParams:
    models = {"m": {"model": "m", "usd_per_million_input": 1, "usd_per_million_output": 2, "seconds_per_request": 2}}
    return QuestionSetParams.model_validate({"of": ["a/train"], "models": models, "ask": {"model": "m"}, **more})


def test_figures_are_counted_by_split() -> None:
    images = [chosen(name) for name in "abcdefgh"]
    blind = Verdict("control", "m", "cup", "ANSWER: cup", Reason.BLIND)
    questions = [
        *(made(name, 0, "cup") for name in "abcdefgh"),
        made("a", 1, "cat", texts=("where does it sleep in here?", "who sleeps?"), verdicts=(blind,), usd=0.5),
        made("a", 1, "cat", texts=("the one asleep",), is_sentence=False),
        made("b", 2, kind="absent"),
    ]
    found = figures(images, questions, [Rejected("a", 3, Reason.CUT, "x")] * 2, SHARES)
    assert found["whole"] == {
        "images": 8,
        "questions": 10,
        "texts": 12,
        "questions_per_image": 1.25,
        "words_per_question": round((9 * 4 + 6) / 10, 1),
        "categories": 2,
    }
    assert sum(found["splits"][name]["images"] for name in SHARES) == 8
    want = {name: sum(split_of(each.candidate.sha256, SHARES) == name for each in images) for name in SHARES}
    assert {name: row["images"] for name, row in found["splits"].items()} == want
    assert (found["kinds"], found["rejected"]) == ({"absent": 1, "generated": 10}, {"cut": 2})
    assert (found["flagged_as_answerable_without_the_picture"], found["usd"]) == (1, 0.5)
    table = set_table(found)
    assert table[-1] == "rejected: 2 cut"
    assert len({len(line) for line in table[:-1]}) == 1, "columns are aligned"


def test_a_plan_sums_requests_cost_and_hours() -> None:
    rows = [("m", PlanRow("ask", "m", 3604, 4, 1000, 2000, 1.25)), ("m", PlanRow("verify", "m", 0, 0, 0, 0, 0.0))]
    lines = plan_table(params(), rows)
    assert lines[1].split() == ["ask", "m", "3604", "4", "1000", "2000", "1.25", "0.5"]
    assert lines[3].split() == ["in", "all", "3604", "4", "1000", "2000", "1.25", "0.5"]
    unpriced = plan_table(params(), [("m", PlanRow("ask", "m", 1, 0, 1, 1, None))])
    assert unpriced[-2].split()[-2] == "?"


@pytest.mark.parametrize(
    "section",
    [
        {"ask": {"model": "m", "prompt": "verify-1"}},
        {"describe": {"model": "m", "prompt": "ask-1"}},
        {"verify": {"model": "m", "prompt": "ask-1"}},
        {"verify": {"model": "m", "control_prompt": "verify-1"}},
        {"rephrase": {"model": "m", "prompt": "describe-1"}},
    ],
)
def test_a_template_of_another_step_is_refused(section: dict[str, Any]) -> None:
    require_templates(params())
    with pytest.raises(PromptError, match="expected"):
        require_templates(params(**section))


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 100),
        ({"top_p": 0.5}, 100),
        ({"max_tokens": None, "max_completion_tokens": 2000}, 2000),
        ({"max_tokens": 70}, 70),
        ({"max_completion_tokens": 50}, 100),
    ],
)
def test_a_budget_counts_on_the_longest_answer_that_a_request_allows(body: dict[str, Any], tokens: int) -> None:
    model = ModelParams.model_validate({"model": "m", "usd_per_million_output": 10, "body": body})
    text = json.dumps(model.body) if model.body else ""
    request = Request("ask", "a", "m", (Message("user", ""),), Sampling(100), body=text)
    assert output_tokens(request) == tokens
    assert worst_usd(request, model) == pytest.approx(tokens * 10 / 1e6)
    sent = chat_body(request)
    assert max(sent.get(name, 0) for name in BOUNDS) == tokens


@pytest.mark.parametrize(
    "body",
    [
        {"n": 3},
        {"model": "x"},
        {"stream": True},
        {"max_tokens": None},
        {"max_completion_tokens": "many"},
        {"max_tokens": None, "max_completion_tokens": None},
        {"max_tokens": 0},
    ],
)
def test_what_would_leave_the_cost_unknown_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ModelParams.model_validate({"model": "m", "body": body})


def test_what_is_kept_of_a_rejection_is_short() -> None:
    kept = Rejected("a", 0, Reason.TOO_LARGE, "x" * 10**6, "y" * 10**6)
    assert (len(kept.what), len(kept.detail)) == (MAX_WHAT, MAX_WHAT)
