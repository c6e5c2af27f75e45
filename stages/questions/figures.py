"""Figures of a set of questions next to those of LLM-Seg40K: ``summary.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.questions.choose import Chosen, split_of
from stages.questions.items import Made, Rejected

LLMSEG40K = {"images": 14_000, "questions_per_image": 3.95, "words_per_question": 15.2, "categories": 1458}
"""Figures from LLM-Seg's paper (section 4): images for the whole set, the others for its train split."""


def figures(
    chosen: Sequence[Chosen], made: Sequence[Made], rejected: Iterable[Rejected], shares: Mapping[str, float]
) -> dict[str, Any]:
    """Counts of the whole set and of each split, and how often each reason rejected something."""
    split = {each.candidate.image_id: split_of(each.candidate.sha256, shares) for each in chosen}
    reasons = Counter(each.reason.name.lower() for each in rejected)
    return {
        "images_chosen": dict(sorted(Counter(each.group for each in chosen).items())),
        "whole": _of(made),
        "splits": {name: _of([each for each in made if split[each.image_id] == name]) for name in shares},
        "kinds": dict(sorted(Counter(each.kind for each in made).items())),
        "rejected": dict(sorted(reasons.items())),
        "flagged_as_answerable_without_the_picture": sum(
            any(verdict.step == "control" and verdict.reason for verdict in each.verdicts) for each in made
        ),
        "usd": round(sum(each.usd for each in made), 6),
        "llmseg40k": LLMSEG40K,
    }


def _of(made: Sequence[Made]) -> dict[str, Any]:
    """The figures of the paper's table. A question counts once, with its first text; its rephrasings are further texts."""
    images = {each.image_id for each in made}
    words = [len(each.texts[0].split()) for each in made if each.is_sentence]
    questions = {(each.image_id, each.number) for each in made}
    return {
        "images": len(images),
        "questions": len(questions),
        "texts": sum(len(each.texts) for each in made),
        "questions_per_image": round(len(questions) / len(images), 2) if images else 0.0,
        "words_per_question": round(sum(words) / len(words), 1) if words else 0.0,
        "categories": len({label for each in made for label in each.labels}),
    }
