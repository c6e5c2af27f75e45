"""Conversations as tokens: a chat template, as many ``<image>`` tokens as there are features, labels on the answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stages.train.llava import IGNORED

IMAGE = "<image>"
VICUNA_V1 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions.{% for message in messages %}{% if message['role'] == 'user' %} USER: "
    "{{ message['content'] }}{% else %} ASSISTANT: {{ message['content'] }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""The conversation ``llava_v1`` (haotian-liu/LLaVA; LISA's and LLM-Seg's), for tokenizers without a template."""

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels (:data:`IGNORED` outside the answers) of one conversation, equally long."""

    ids: list[int]
    labels: list[int]


def render(tokenizer: Any, turns: Sequence[Turn], question: str | None = None) -> str:
    """The text of a conversation; with a last ``question`` it ends where the answer begins."""
    messages = [
        message
        for asked, answer in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    ]
    if question is not None:
        messages.append({"role": "user", "content": question})
    text: str = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=question is not None,
        chat_template=tokenizer.chat_template or VICUNA_V1,
    )
    return text


def encode(tokenizer: Any, turns: Sequence[Turn], image_tokens: int) -> Encoded:
    """A whole conversation, whose first question holds ``<image>``.

    Args:
        image_tokens: features of the image; ``<image>`` becomes as many tokens.

    Raises:
        ValueError: the template does not render a conversation as the beginning of a longer one.
    """
    text = render(tokenizer, turns)
    spans = []
    for number, (asked, _) in enumerate(turns):
        before = render(tokenizer, turns[:number], asked)
        behind = text if number + 1 == len(turns) else render(tokenizer, turns[: number + 1])
        if not (text.startswith(before) and text.startswith(behind)):
            raise ValueError("the chat template changes what was said before; labels cannot be placed")
        spans.append((len(before), len(behind)))
    found = tokenizer(_widened(text, image_tokens), add_special_tokens=False, return_offsets_mapping=True)
    more = len(IMAGE) * (image_tokens - 1) if IMAGE in text else 0
    at = text.find(IMAGE)
    spans = [(start + more * (start > at), end + more * (end > at)) for start, end in spans]
    labels = [
        token if any(start <= first < end for start, end in spans) else IGNORED
        for token, (first, _) in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]
    return Encoded(found["input_ids"], labels)


def encode_prompt(tokenizer: Any, question: str, image_tokens: int) -> list[int]:
    """Ids up to where the answer to ``question`` begins."""
    ids: list[int] = tokenizer(_widened(render(tokenizer, [], question), image_tokens), add_special_tokens=False)[
        "input_ids"
    ]
    return ids


def _widened(text: str, image_tokens: int) -> str:
    return text.replace(IMAGE, IMAGE * image_tokens, 1)


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> torch.Tensor:
    """Rows of different lengths as int64 [B, L]."""
    length = max(map(len, rows))
    filled = [[value] * (length - len(row)) for row in rows]
    return torch.tensor([[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, filled, strict=True)])


def collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` int64 [B, L], padded behind.

    No mask of the padding: a token sees those before it alone, so padding behind is seen by nothing that has a label, and
    attention without a mask has faster kernels.
    """
    return {
        "input_ids": pad([row.ids for row in encoded], pad_id),
        "labels": pad([row.labels for row in encoded], IGNORED),
    }
