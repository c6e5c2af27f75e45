"""Questions and answers of LISA and LLM-Seg: a ``[SEG]`` stands for a mask (dvlab-research/LISA; wangjunchi/LLMSeg)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.train.language.mask_words import REJ
from stages.train.language.text import IMAGE, Turn

SEG = "[SEG]"
"""The word for a mask."""
SHORT = (
    "Can you segment the {text} in this image?",
    "Please segment the {text} in this image.",
    "What is {text} in this image? Please respond with segmentation mask.",
    "What is {text} in this image? Please output segmentation mask.",
)
"""Questions for a phrase, which is lower-cased."""
LONG = (
    "{text} Please respond with segmentation mask.",
    "{text} Please output segmentation mask.",
)
"""Questions for a sentence, which is left as it is."""
EXPLAIN = (
    "Please output segmentation mask and explain why.",
    "Please output segmentation mask and explain the reason.",
    "Please output segmentation mask and give some explanation.",
)
"""What is said behind a text that is to be explained; LLM-Seg's copy misspells the last."""
ANSWERS = (
    "It is [SEG].",
    "Sure, [SEG].",
    "Sure, it is [SEG].",
    "Sure, the segmentation result is [SEG].",
    "[SEG].",
)
"""Answers with masks."""
GIVEN = f"{SEG}."
"""The answer that stands in the input of the released validations."""


def evaluation(text: str, is_sentence: bool) -> str:
    """The released validations' question, with the space behind the line break and the case as it is."""
    asked = text.strip() if is_sentence else f"What is {text.strip()} in this image?"
    return f"{IMAGE}\n {asked} Please output segmentation mask."


def conversation(
    text: str,
    is_sentence: bool,
    masks: int,
    explanation: str | None,
    alone: float | None,
    rng: np.random.Generator,
    answers: Sequence[str] = ANSWERS,
    draws: tuple[float, float] | None = None,
) -> Turn:
    """A question and its answer, each by a template drawn from ``rng``.

    Args:
        masks: this many [SEG], with commas between them; 0 is answered with :data:`REJ` (GSVA, LeapLabTHU/GSVA).
        explanation: the explanatory answer, if there is one.
        alone: share of the explained that is asked for the explanation alone, whose answer has no [SEG]; half of the others
            get both. None: nothing is explained.
        answers: what an answer with masks may be.
        draws: two numbers from 0 to 1 that decide whether the explanation stands alone, and whether there is one at all; None: of
            ``rng``. LISA draws them once for all questions of a picture.
    """
    words = str(rng.choice(LONG)).format(text=text) if is_sentence else str(rng.choice(SHORT)).format(text=text.lower())
    answer = str(rng.choice(answers)).replace(SEG, ", ".join([SEG] * masks) or REJ)
    if explanation is not None and alone is not None:
        draws = draws or (float(rng.random()), float(rng.random()))
        if draws[0] < alone:
            words, answer = text, explanation
        elif draws[1] < 0.5:
            words, answer = f"{text} {rng.choice(EXPLAIN)}", f"{answer} {explanation}"
    return f"{IMAGE}\n{words}", answer
