"""Words that stand for masks, and for "nothing is meant", in a tokenizer."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from stages.train.language.text import Encoded, Turn, encode

REJ = "[REJ]"
"""The word for "nothing in the picture is meant" (GSVA, LeapLabTHU/GSVA)."""
_PLACEHOLDER = re.compile(r" <SEG_MASK_(\d+)>")


class MaskWords:
    """A tokenizer that knows :data:`REJ` and the masks of a sample, with the ids of an :class:`ExtendedLlava`.

    Args:
        tokenizer: left as it is; the new tokens go into a copy.
        words: id of each learned word.
        first_mask: id of mask 0.
        most: the largest number of masks of a sample.
    """

    def __init__(self, tokenizer: Any, words: dict[str, int], first_mask: int, most: int) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        names = [*words, *(f"<SEG_MASK_{k + 1}>" for k in range(most))]
        ids = [*words.values(), *range(first_mask, first_mask + most)]
        forms = [f"{space}{name}" for space in ("", " ") for name in names]  # a sentence may begin with a mask word
        self.tokenizer.add_tokens(forms)
        self._ids = dict(zip(self.tokenizer.convert_tokens_to_ids(forms), 2 * ids, strict=True))
        self._names = {token: f" {name}" for token, name in zip(ids, names, strict=True)}
        self.first_mask = first_mask

    def encode(self, turns: Sequence[Turn], image_tokens: int) -> Encoded:
        """Like :func:`stages.train.language.text.encode`, with the model's ids."""
        found = encode(self.tokenizer, turns, image_tokens)
        return Encoded(self.model_ids(found.ids), self.model_ids(found.labels))

    def model_ids(self, ids: Sequence[int]) -> list[int]:
        """The tokenizer's ids -> the model's."""
        return [self._ids.get(token, token) for token in ids]

    def decode(self, ids: Sequence[int]) -> tuple[str, list[int]]:
        """Text with the mask words in it, and the numbers of the masks, each once, in the order they were named."""
        parts: list[str] = []
        plain: list[int] = []
        for token in [*ids, None]:
            if token is None or token in self._names:
                parts.append(self.tokenizer.decode(plain, skip_special_tokens=True))
                plain = []
                parts.append("" if token is None else self._names[token])
            else:
                plain.append(token)
        text = "".join(parts).strip()
        return text, list(dict.fromkeys(int(number) - 1 for number in _PLACEHOLDER.findall(" " + text)))
