"""Makes texts safe for a language model: a space breaks up what it would read as a control token or the end of a turn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from stages.datasets.base import Target

CONTROL = re.compile(
    r"(?i:</?s>|<unk>|<pad>|<(?:bos|eos)>|<image>|<im_(?:start|end|patch)>|<\|\w+\|>|<(?:start|end)_of_turn>|<SEG_MASK_\d+>"
    r"|\[(?:SEG|REJ)\]|\[/?INST\]|<</?SYS>>)|\b(?:USER|ASSISTANT):"
)
"""Control tokens and separators of the conversations that ELISA, LLM-Seg and LISA are trained in."""
NOTE = "text with a control token of language models, which a space breaks up now"


@dataclass
class Words:
    """Changes the texts of targets so that they are read as words. ``notes``: :data:`NOTE` for each text that was changed."""

    notes: list[str] = field(default_factory=list)

    def of(self, target: Target) -> Target:
        """The target with texts, answer, correction and turns that hold no control token."""
        return replace(
            target,
            texts=tuple(map(self._text, target.texts)),
            answer=None if target.answer is None else self._text(target.answer),
            correction=None if target.correction is None else self._text(target.correction),
            turns=tuple(map(self._text, target.turns)),
        )

    def _text(self, text: str) -> str:
        found = CONTROL.sub(_broken_up, text)
        if found != text:
            self.notes.append(NOTE)
        return found


def _broken_up(found: re.Match[str]) -> str:
    """``</s>`` -> ``< /s>``, ``ASSISTANT:`` -> ``ASSISTANT :``."""
    token = found[0]
    return f"{token[:-1]} :" if token.endswith(":") else f"{token[0]} {token[1:]}"
