"""ELISA's conversations: templates, mask tokens in the text, and token dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stages.train.language.mask_words import REJ
from stages.train.language.text import IMAGE, Turn

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
"""What comes before the masks; two spelling mistakes of the original are corrected."""
Position = Literal["before", "after", "randomized"]


@dataclass(frozen=True)
class Style:
    """How conversations are worded.

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
    """Whether the words come before the masks; drawn separately for the question and for the answer, as released."""
    return bool(rng.random() < 0.5) if position == "randomized" else position == "after"


def drop_tokens(
    input_ids: Tensor, share: float, unknown: int, kept: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Replace a random ``share`` of ``input_ids`` [B, L] by ``unknown``, except where ``kept`` (bool [B, L]: the image)."""
    dropped = torch.rand(input_ids.shape, generator=generator, device=input_ids.device) < share
    return torch.where(dropped & ~kept, unknown, input_ids)
