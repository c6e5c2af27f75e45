"""Questions and answers of LISA, LLM-Seg, GSVA and SESAME: a ``[SEG]`` stands for a mask. The words are in prompts.yaml."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.train.language.mask_words import REJ
from stages.train.language.prompts import SEG, Evaluation, GsvaPrompts, LisaPrompts, SesamePrompts, load_prompts
from stages.train.language.text import IMAGE, Turn

RELEASED = load_prompts()
"""The prompts of a run that does not name its own."""


def evaluation(text: str, is_sentence: bool, prompts: Evaluation = RELEASED.lisa.evaluation) -> str:
    """The released validations' question, with the space after the line break and the case as it is."""
    return f"{IMAGE}\n{(prompts.long if is_sentence else prompts.short).format(text=text.strip())}"


def given(text: str, prompts: Evaluation = RELEASED.lisa.evaluation) -> str:
    """The answer that stands in the input of the released validations."""
    return prompts.answer.format(text=text.strip())


def conversation(
    text: str,
    is_sentence: bool,
    masks: int,
    explanation: str | None,
    alone: float | None,
    rng: np.random.Generator,
    answers: Sequence[str] | None = None,
    draws: tuple[float, float] | None = None,
    prompts: LisaPrompts = RELEASED.lisa,
) -> Turn:
    """A question and its answer, each by a template drawn from ``rng``.

    Args:
        masks: this many [SEG], with commas between them; 0 is answered with :data:`REJ` (GSVA, LeapLabTHU/GSVA).
        explanation: the explanatory answer, if one exists.
        alone: share of the targets with an explanation that are asked for the explanation alone, whose answer has no [SEG];
            half of the others get both. None: nothing is explained.
        answers: possible answers with masks; None: those of ``prompts``.
        draws: two numbers from 0 to 1 that decide whether the explanation stands alone, and whether there is one at all; None:
            drawn from ``rng``. LISA draws them once for all questions of a picture.
    """
    words = _asked(text, is_sentence, prompts, rng)
    answer = _with_masks(str(rng.choice(answers or prompts.answers)), masks)
    if explanation is not None and alone is not None:
        draws = draws or (float(rng.random()), float(rng.random()))
        if draws[0] < alone:
            words, answer = text, explanation
        elif draws[1] < 0.5:
            words, answer = f"{text} {rng.choice(prompts.explain)}", f"{answer} {explanation}"
    return f"{IMAGE}\n{words}", answer


def names_conversation(
    texts: Sequence[str],
    masks: Sequence[int],
    labels: bool,
    rng: np.random.Generator,
    prompts: GsvaPrompts = RELEASED.gsva,
) -> Turn:
    """One question about several names, and an answer that names each, as LeapLabTHU/GSVA has it.

    Args:
        masks: number of masks of each name; 0 is answered with :data:`REJ`.
        labels: whether they are labels and not texts that refer to something.
    """
    names = [text.strip().strip(".") for text in texts]
    words = str(rng.choice(prompts.questions)).format(text=", ".join(names).lower())
    form = prompts.answers[int(rng.integers(len(prompts.answers)))]
    parts = [_with_masks(form.each.format(text=name), count) for name, count in zip(names, masks, strict=True)]
    between = prompts.between.labels if labels else prompts.between.referring
    return f"{IMAGE}\n{words}", f"{form.start} {between.join(parts)}{form.end}"


def premise_conversation(
    text: str,
    is_sentence: bool,
    masks: int,
    answer: str | None,
    correction: str | None,
    rng: np.random.Generator,
    prompts: SesamePrompts = RELEASED.sesame,
) -> Turn:
    """A question whose premise may be false, and its answer, as see-say-segment/sesame has them.

    Args:
        masks: this many [SEG]; 0: the premise is false, without a [SEG].
        answer: for a false premise, the data set's own answer, used unchanged.
        correction: for a false premise, what could be asked instead.
    """
    words = f"{IMAGE}\n{_asked(text, is_sentence, prompts, rng)}"
    name = text.strip() if is_sentence else text.strip().lower()
    if masks:
        form = str(rng.choice(prompts.answers_long if is_sentence else prompts.answers_short))
        return words, _with_masks(form.format(text=name), masks)
    if correction is not None:
        return words, str(rng.choice(prompts.corrections)).format(text=name, correction=correction.strip().lower())
    return words, answer if answer is not None else str(rng.choice(prompts.denials)).format(text=name)


def _asked(text: str, is_sentence: bool, prompts: LisaPrompts | SesamePrompts, rng: np.random.Generator) -> str:
    """A sentence unchanged, or a phrase in lower case, put into a template."""
    forms, words = (prompts.long, text) if is_sentence else (prompts.short, text.strip().lower())
    return str(rng.choice(forms)).format(text=words)


def _with_masks(answer: str, masks: int) -> str:
    return answer.replace(SEG, ", ".join([SEG] * masks) or REJ)
