"""Tables that the verb ``questions`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.questions.params import QuestionSetParams
from stages.questions.prices import PlanRow


def set_table(found: Mapping[str, Any]) -> list[str]:
    """The figures of a set, by split, next to LLM-Seg40K's."""
    rows = {**found["splits"], "whole": found["whole"]}
    lines = [f"{'':12} images questions  texts  per image  words  categories"]
    for name, row in rows.items():
        lines.append(
            f"{name:12} {row['images']:6} {row['questions']:9} {row['texts']:6} {row['questions_per_image']:10} "
            f"{row['words_per_question']:6} {row['categories']:11}"
        )
    paper = found["llmseg40k"]
    lines.append(
        f"{'LLM-Seg40K':12} {paper['images']:6} {'':9} {'':6} {paper['questions_per_image']:10} "
        f"{paper['words_per_question']:6} {paper['categories']:11}"
    )
    if found["rejected"]:
        lines.append("rejected: " + ", ".join(f"{count} {reason}" for reason, count in found["rejected"].items()))
    return lines


def plan_table(params: QuestionSetParams, rows: Sequence[tuple[str, PlanRow]]) -> list[str]:
    """A line for each step, and the sums."""
    lines = [
        f"{'step':10} {'model':24} {'requests':>9} {'answered':>9} {'tokens in':>12} {'tokens out':>12} {'USD':>10} {'hours':>7}"
    ]
    hours_of: list[float | None] = []
    for key, row in rows:
        model, left = params.models[key], row.requests - row.answered
        seconds = model.seconds_per_request
        hours = None if seconds is None or model.mode == "batch" else left * seconds / model.concurrency / 3600
        hours = hours if left else 0.0
        hours_of.append(hours)
        lines.append(
            f"{row.step:10} {row.model:24} {row.requests:9} {row.answered:9} {row.input_tokens:12} {row.output_tokens:12} "
            f"{'?' if row.usd is None else f'{row.usd:.2f}':>10} {'?' if hours is None else f'{hours:.1f}':>7}"
        )
    usd = [row.usd for _, row in rows]
    total = "?" if None in usd else f"{sum(each or 0.0 for each in usd):.2f}"
    lines.append(
        f"{'in all':10} {'':24} {sum(row.requests for _, row in rows):9} {sum(row.answered for _, row in rows):9} "
        f"{sum(row.input_tokens for _, row in rows):12} {sum(row.output_tokens for _, row in rows):12} {total:>10} "
        f"{'?' if None in hours_of else f'{sum(each or 0.0 for each in hours_of):.1f}':>7}"
    )
    lines.append(
        "Tokens in are an upper estimate; tokens out and USD are the most there can be. Steps after the first are estimated as "
        "if every question were kept."
    )
    return lines
