"""What a set of questions is like: counts by split and kind, and what a dry run would ask."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.question_tables import plan_table, set_table
from stages.questions.choose import Candidate, Chosen, split_of
from stages.questions.figures import figures
from stages.questions.items import Made, Origin, Reason, Rejected, Verdict
from stages.questions.params import QuestionSetParams
from stages.questions.prices import PlanRow
from stages.questions.prompts import PromptError
from stages.questions.templates import require_templates

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
