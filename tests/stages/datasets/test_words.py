"""Control tokens in texts."""

from __future__ import annotations

import pytest

from stages.datasets.base import Target
from stages.datasets.words import CONTROL, NOTE, Words


def target(text: str) -> Target:
    return Target("a/0", (), (text, "plain"), True, "x", text, "", "", correction=text, turns=(text, "plain"))


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("</s>", "< /s>"), ("<s>", "< s>"), ("<image>", "< image>"), ("<im_start>", "< im_start>"), ("[SEG]", "[ SEG]"),
        ("[REJ]", "[ REJ]"), ("<SEG_MASK_12>", "< SEG_MASK_12>"), ("x ASSISTANT: y", "x ASSISTANT : y"), ("USER:", "USER :"),
        ("[INST]a[/INST]", "[ INST]a[ /INST]"), ("<<SYS>>", "< <SYS>>"), ("<|eot_id|>", "< |eot_id|>"),
        ("<end_of_turn>", "< end_of_turn>"), ("<image><image>", "< image>< image>"), ("loud <IMAGE>", "loud < IMAGE>"),
        ("[rej]", "[ rej]"),
    ],
)  # fmt: skip
def test_a_control_token_is_broken_up_everywhere(text: str, broken: str) -> None:
    words = Words()
    found = words.of(target(text))
    assert (found.texts, found.answer, found.correction, found.turns) == (
        (broken, "plain"),
        broken,
        broken,
        (broken, "plain"),
    )
    assert words.notes == [NOTE] * 4
    assert not CONTROL.search(broken)


@pytest.mark.parametrize("text", ["a < b", "the user: me", "an image", "[a]", "<b>", "SUPERUSER:", "seg", "猫"])
def test_ordinary_text_stays(text: str) -> None:
    words = Words()
    assert words.of(target(text)) == target(text)
    assert words.notes == []
