"""Prompts are data: the released ones word by word, those of a file of one's own, and what is wrong with a file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from stages.train.language.prompts import RELEASED_FILE, load_prompts, prompts_digest
from stages.train.language.seg_text import RELEASED
from stages.train.params import TrainParams, overridden
from stages.train.run_digest import differences, identity, run_digest
from store.storage.files import digest

DIGEST = "7b0c8ea7ebc7a426e383d1f41fc155765107f5b5ee32e0a00179aeb1875ca8e8"
"""Of the released prompts: runs are trained with them, so they never change."""


def written(tmp_path: Path, text: str) -> str:
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "own.yaml")


def test_lisa_and_llmseg_say_what_was_released() -> None:
    """dvlab-research/LISA, utils/utils.py."""
    assert RELEASED.lisa.model_dump() == {
        "short": (
            "Can you segment the {text} in this image?",
            "Please segment the {text} in this image.",
            "What is {text} in this image? Please respond with segmentation mask.",
            "What is {text} in this image? Please output segmentation mask.",
        ),
        "long": (
            "{text} Please respond with segmentation mask.",
            "{text} Please output segmentation mask.",
        ),
        "explain": (
            "Please output segmentation mask and explain why.",
            "Please output segmentation mask and explain the reason.",
            "Please output segmentation mask and give some explanation.",
        ),
        "answers": (
            "It is [SEG].",
            "Sure, [SEG].",
            "Sure, it is [SEG].",
            "Sure, the segmentation result is [SEG].",
            "[SEG].",
        ),
        "evaluation": {
            "short": " What is {text} in this image? Please output segmentation mask.",
            "long": " {text} Please output segmentation mask.",
            "answer": "[SEG].",
        },
    }


def test_gsva_says_what_was_released() -> None:
    """LeapLabTHU/GSVA, model/llava/constants.py and data: questions have no "the", and an answer one of five forms."""
    assert RELEASED.gsva.questions == (
        "Can you segment {text} in this image?",
        "Please segment {text} in this image.",
        "What are {text} in this image? Please respond with segmentation masks.",
        "What are {text} in this image? Please output segmentation masks.",
    )
    assert [(form.start, form.each, form.end) for form in RELEASED.gsva.answers] == [
        ("The segmentation results are", "{text} [SEG]", "."),
        ("Sure, they are", "{text}:[SEG]", "."),
        ("Sure,", "the mask of {text} is [SEG]", "."),
        ("Sure,", "the segmentation of {text} is [SEG]", "."),
        ("Sure,", "the referred {text} is [SEG]", "."),
    ]


def test_the_released_prompts_never_change() -> None:
    assert digest(load_prompts().model_dump(mode="json")) == DIGEST


def test_a_file_of_ones_own_says_what_it_changes(tmp_path: Path) -> None:
    own = load_prompts(written(tmp_path, "version: 1\nlisa: {answers: ['Here: [SEG]']}\nsesame: {denials: ['No.']}\n"))
    assert own.lisa.answers == ("Here: [SEG]",)
    assert own.sesame.denials == ("No.",)
    assert own.lisa.short == RELEASED.lisa.short
    assert own.gsva == RELEASED.gsva


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "found ['a'], expected keys version, lisa, gsva, sesame"),
        ("lisa: {}\n", "expected keys version, lisa"),
        ("version: 2\n", "version: found 2, expected 1"),
        ("version: 1\nlissa: {}\n", "lissa: found a key that is not known, expected one of version, lisa, gsva, sesame"),
        ("version: 1\nlisa: {sort: [a]}\n", "lisa.sort: found a key that is not known, expected one of short, long, explain"),
        ("version: 1\ngsva: {answers: [{beginning: a}]}\n", "expected one of start, each, end"),
        ("version: 1\nlisa: {short: 3}\n", "lisa.short: found 3, expected a valid tuple"),
        ("version: 1\nlisa: {short: []}\n", "lisa.short: found [], "),
        ("version: 1\nlisa: {short: [Segment it]}\n", "lisa.short.0: found 'Segment it', expected {text} once"),
        ("version: 1\nlisa: {long: ['{text}', '{text} {more}']}\n", "lisa.long.1: found '{text} {more}', expected {text} once"),
        ("version: 1\nlisa: {long: ['{text!r}']}\n", "expected {text} once, and nothing else in braces"),
        ("version: 1\nlisa: {long: ['{text} {']}\n", "expected braces in pairs, and doubled where they are text"),
        ("version: 1\nlisa: {answers: ['It is.']}\n", "lisa.answers.0: found 'It is.', expected one [SEG]"),
        ("version: 1\nlisa: {answers: ['{text} [SEG]']}\n", "expected no braces, as nothing is put in here"),
        ("version: 1\nsesame: {denials: ['no [SEG]']}\n", "sesame.denials.0: found 'no [SEG]', expected no [SEG]"),
        ("version: 1\nsesame: {corrections: ['not {text}']}\n", "expected {correction} once and {text} at most once"),
        ("version: 1\nlisa: {short: ['<image> {text}']}\n", "none of the words that steer the model, which has <image>"),
        ("version: 1\nlisa: [\n", "found no YAML"),
        ("version: 1\nx: !!python/object/apply:os.getcwd []\n", "found no YAML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_by_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as told:
        load_prompts(written(tmp_path, text))
    assert "train.prompts: " in str(told.value)
    assert "own.yaml" in str(told.value)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found no file that can be read"):
        load_prompts("no/such/prompts.yaml")
    with pytest.raises(ValueError, match="found no file that can be read"):
        load_prompts(str(tmp_path))
    with pytest.raises(ValueError, match="found more than"):
        load_prompts(written(tmp_path, "version: 1\nlisa: " + "x" * (1 << 20)))


def test_only_other_words_make_another_run(seg_params: Callable[..., TrainParams], tmp_path: Path) -> None:
    """Not the file's name, nor how it is written, nor that it was copied."""
    params = seg_params("lisa")

    def about(name: str | None, system: str = "lisa") -> dict[str, object]:
        return identity(overridden(params, {"prompts": name}), system, {})

    copied = written(tmp_path, RELEASED_FILE.read_text(encoding="utf-8"))
    assert prompts_digest(copied) is None
    assert run_digest(about(copied)) == run_digest(about(None))
    assert differences(about(copied), about(None)) == []
    values = yaml.safe_load(RELEASED_FILE.read_text(encoding="utf-8"))
    values["lisa"]["answers"] = ["Here: [SEG]."]
    first = written(tmp_path, yaml.safe_dump(values))
    changed = about(first)
    Path(first).rename(tmp_path / "other.yaml")
    again = about(str(tmp_path / "other.yaml"))
    assert run_digest(changed) == run_digest(again) != run_digest(about(None))
    (told,) = differences(about(None), changed)
    assert str(told).startswith("prompts: the released ones -> ")
    assert run_digest(about(str(tmp_path / "other.yaml"), "elisa")) == run_digest(about(None, "elisa"))
