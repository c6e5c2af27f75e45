"""ELISA's conversations: templates, mask tokens in the text, token dropout, and back from generated ids to text and masks."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stages.train.text import IMAGE, Encoded, Turn, encode

REJ = "[REJ]"
"""The word for "nothing in the picture is meant" (GSVA, LeapLabTHU/GSVA)."""
EVALUATION = f"{IMAGE}\n{{question}} Output the segmentation mask for the object in the image"
"""The released evaluation's prompt."""
REQUESTS = tuple(
    f"{verb} {noun}"
    for verb, whole in (("Output", "in the image"), ("Generate", "for the object"), ("Provide", "for the object"))
    for noun in (
        f"the segmentation mask for the object {whole}" if verb == "Output" else f"the segmentation mask {whole}",
        f"the mask for the object {whole}" if verb == "Output" else f"the mask {whole}",
        "the segmentation mask",
        "the mask",
    )
)
PREFIXES = (
    "The segmentation mask for the object in the image is",
    "The requested object can be found in",
    "You can find the segmentation mask for the object in the image at",
    "The object is located in",
    "The object is in",
    "You can find the object in",
    "Concerning the object location, it is in",
    "The object is located at",
    "The object is at",
    "The object can be found in",
    "The object is in the image at",
)
"""What comes before the masks; two spelling mistakes of the original are mended."""
_PLACEHOLDER = re.compile(r" <SEG_MASK_(\d+)>")
Position = Literal["before", "after", "randomized"]


@dataclass(frozen=True)
class Style:
    """How conversations are put into words.

    ``position``: masks before or after the explanatory answer, or either. ``text``: whether words stand around the masks.
    ``token_dropout``: share of text tokens that the model sees as unknown while it trains.
    """

    position: Position = "randomized"
    text: bool = True
    token_dropout: float = 0.2


def conversation(
    question: str, answer: str | None, positives: Sequence[int], rng: np.random.Generator, style: Style
) -> Turn:
    """A question and its answer with the masks ``positives`` (numbers of candidates), or with :data:`REJ` in their place.

    Mask k stands in the text as `` <SEG_MASK_{k+1}>``, in random order, as the order of masks means nothing.
    """
    request = str(rng.choice(REQUESTS))
    asked = f"{question} {request}." if _first(style.position, rng) else f"{request}. {question}"
    chosen = rng.permutation(list(positives)).tolist()
    masks = "".join(f" <SEG_MASK_{k + 1}>" for k in chosen) or f" {REJ}"
    said = answer or ""
    if not style.text:
        words = f"{masks.strip()} {said}" if not _first(style.position, rng) else f"{said}{masks}"
    else:
        located = f"{rng.choice(PREFIXES)}{masks}."
        words = f"{located} {said}" if not _first(style.position, rng) else f"{said} {located}"
    return f"{IMAGE}\n{asked}", words.strip()


def _first(position: Position, rng: np.random.Generator) -> bool:
    """Whether the words come first and the masks after them; drawn anew for the question and for the answer, as released."""
    return bool(rng.random() < 0.5) if position == "randomized" else position == "after"


class MaskWords:
    """A tokenizer that knows :data:`REJ` and the masks of a sample, with the ids of an :class:`ExtendedLlava`.

    Args:
        tokenizer: left as it is; the new tokens go into a copy.
        words: id of each learned word.
        first_mask: id of mask 0.
        most: masks a sample can have.
    """

    def __init__(self, tokenizer: Any, words: dict[str, int], first_mask: int, most: int) -> None:
        self.tokenizer = copy.deepcopy(tokenizer)
        names = [*words, *(f"<SEG_MASK_{k + 1}>" for k in range(most))]
        ids = [*words.values(), *range(first_mask, first_mask + most)]
        forms = [f"{space}{name}" for space in ("", " ") for name in names]  # a sentence may begin with one
        self.tokenizer.add_tokens(forms)
        self._ids = dict(zip(self.tokenizer.convert_tokens_to_ids(forms), 2 * ids, strict=True))
        self._names = {token: f" {name}" for token, name in zip(ids, names, strict=True)}
        self.first_mask = first_mask

    def encode(self, turns: Sequence[Turn], image_tokens: int) -> Encoded:
        """As :func:`stages.train.text.encode`, with the model's ids."""
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


def drop_tokens(
    input_ids: Tensor, share: float, unknown: int, kept: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Replace a random ``share`` of ``input_ids`` [B, L] by ``unknown``, except where ``kept`` (bool [B, L]: the image)."""
    dropped = torch.rand(input_ids.shape, generator=generator, device=input_ids.device) < share
    return torch.where(dropped & ~kept, unknown, input_ids)
