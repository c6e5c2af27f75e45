"""LISA's and LLM-Seg's words: every template as released, drawn by the sample's own randomness."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.train.language.llava import IGNORED
from stages.train.language.mask_words import REJ, MaskWords
from stages.train.language.seg_text import RELEASED, SEG, conversation, evaluation, given


def drawn(*arguments: Any, times: int = 400) -> set[tuple[str, str]]:
    return {conversation(*arguments, np.random.default_rng(seed)) for seed in range(times)}


def test_all_templates_of_a_phrase_in_lower_case_and_of_a_sentence_as_it_is() -> None:
    turns = drawn("The Red Key", False, 1, None, None)
    assert {question for question, _ in turns} == {
        "<image>\nCan you segment the the red key in this image?",
        "<image>\nPlease segment the the red key in this image.",
        "<image>\nWhat is the red key in this image? Please respond with segmentation mask.",
        "<image>\nWhat is the red key in this image? Please output segmentation mask.",
    }
    assert {answer for _, answer in turns} == {
        "It is [SEG].",
        "Sure, [SEG].",
        "Sure, it is [SEG].",
        "Sure, the segmentation result is [SEG].",
        "[SEG].",
    }
    assert len(turns) == 4 * 5  # question and answer know nothing of each other
    assert {question for question, _ in drawn("What opens IT?", True, 1, "A key.", None)} == {
        "<image>\nWhat opens IT? Please respond with segmentation mask.",
        "<image>\nWhat opens IT? Please output segmentation mask.",
    }


def test_text_with_braces_is_text() -> None:
    assert "{0} {text}" in conversation("{0} {text}", True, 1, None, None, np.random.default_rng(0))[0]


def test_several_masks_and_none() -> None:
    assert ("It is [SEG], [SEG], [SEG].") in {answer for _, answer in drawn("x", True, 3, None, None)}
    answers = {answer for _, answer in drawn("x", True, 0, "Nothing does.", 0.0)}
    assert {"It is [REJ].", "[REJ].", "[REJ]. Nothing does."} <= answers
    assert not any(SEG in answer for answer in answers)


def test_explanations_come_alone_beside_the_mask_or_not_at_all() -> None:
    alone, both, plain = 0, 0, 0
    for seed in range(2000):
        question, answer = conversation("Why?", True, 1, "So.", 0.1, np.random.default_rng(seed))
        if (question, answer) == ("<image>\nWhy?", "So."):
            alone += 1
        elif answer.endswith(" So."):
            assert answer.removesuffix(" So.") in RELEASED.lisa.answers
            assert question.removeprefix("<image>\nWhy? ") in RELEASED.lisa.explain
            both += 1
        else:
            assert answer in RELEASED.lisa.answers
            assert question.removeprefix("<image>\n") in {form.format(text="Why?") for form in RELEASED.lisa.long}
            plain += 1
    assert 150 < alone < 250
    assert 800 < both < 1000
    assert 800 < plain < 1000


def test_the_released_evaluation_prompts() -> None:
    assert evaluation(" Which one? ", True) == "<image>\n Which one? Please output segmentation mask."
    asked = "<image>\n What is the Key in this image? Please output segmentation mask."
    assert evaluation("the Key", False) == asked
    assert given("the Key") == "[SEG]."


def test_the_words_are_one_token_each_and_come_back(tokenizer: Any) -> None:
    words = MaskWords(tokenizer, {SEG: 9000, REJ: 9001}, 9002, most=0)
    for answer, ids in (("It is [SEG], [SEG].", [9000, 9000]), ("[REJ].", [9001]), ("[SEG].", [9000])):
        found = words.encode([("<image>\nWhich?", answer)], 4)
        labels = [token for token in found.labels if token != IGNORED]
        assert [token for token in labels if token >= 9000] == ids
        assert words.decode(labels) == (answer, [])
