"""Conversations as tokens: a chat template, as many ``<image>`` tokens as there are features, labels only on the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stages.train.language.llava import IGNORED
from stages.train.language.tokenizer import IM_END, IM_START, wraps_image
from stages.train.language.tokenizer import IMAGE as IMAGE

VICUNA_V1 = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions.{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ ' ' if loop.first else '' }}USER: {{ message['content'] }}{% else %} ASSISTANT: {{ message['content'] }}</s>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""The conversation ``llava_v1`` (haotian-liu/LLaVA; LISA's and LLM-Seg's), for tokenizers without a template. The first token,
``<s>``, is the tokenizer's own."""
_CONTROL = re.compile(r"<image>|<im_(?:patch|start|end)>|\[SEG\]|\[REJ\]|<SEG_MASK_\d+>")

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels (:data:`IGNORED` outside the answers) of one conversation, of equal length."""

    ids: list[int]
    labels: list[int]


def render(tokenizer: Any, turns: Sequence[Turn], question: str | None = None) -> str:
    """The text of a conversation; with a final ``question`` it ends where the answer begins.

    ``<image>`` stands between ``<im_start>`` and ``<im_end>`` where the tokenizer's model was trained so.
    """
    image = f"{IM_START}{IMAGE}{IM_END}" if wraps_image(tokenizer) else IMAGE
    messages = [
        message
        for asked, answer in turns
        for message in (
            {"role": "user", "content": asked.replace(IMAGE, image)},
            {"role": "assistant", "content": answer},
        )
    ]
    if question is not None:
        messages.append({"role": "user", "content": question.replace(IMAGE, image)})
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
        ValueError: the template does not render a conversation as the beginning of a longer one, or there are two ``<image>``.
    """
    text = render(tokenizer, turns)
    spans = []
    for number, (asked, _) in enumerate(turns):
        before = render(tokenizer, turns[:number], asked)
        behind = text if number + 1 == len(turns) else render(tokenizer, turns[: number + 1])
        if not (text.startswith(before) and text.startswith(behind)):
            raise ValueError("the chat template changes what was said before; labels cannot be placed")
        spans.append((len(before), len(behind)))
    found = _tokens(tokenizer, text, image_tokens)
    labels = [token if any(start <= at < end for start, end in spans) else IGNORED for token, at in found]
    return Encoded([token for token, _ in found], labels)


def encode_prompt(tokenizer: Any, question: str, image_tokens: int) -> list[int]:
    """Ids up to where the answer to ``question`` begins; ValueError for two ``<image>`` in it."""
    return [token for token, _ in _tokens(tokenizer, render(tokenizer, [], question), image_tokens)]


def _tokens(tokenizer: Any, text: str, image_tokens: int) -> list[tuple[int, int]]:
    """Ids, each with where it begins in ``text``; -1 for the first token, which is not in it.

    Without a chat template, the text before and after ``<image>`` is tokenized separately, like ``tokenizer_image_token`` of
    haotian-liu/LLaVA does it: sentencepiece begins each part with a space. Then, and if the tokenizer itself says so, the
    sequence begins with ``<s>``, unless the template has added it.
    """
    parts = text.split(IMAGE)
    if len(parts) > 2:
        raise ValueError(f"found {len(parts) - 1} times {IMAGE} in a conversation about one image: {text!r}")
    at = len(parts[0])
    if tokenizer.chat_template:
        more = len(IMAGE) * (image_tokens - 1) if len(parts) == 2 else 0
        found = _pieces(tokenizer, text.replace(IMAGE, IMAGE * image_tokens))
        found = [(token, min(first, max(at, first - more))) for token, first in found]
        begins = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    else:
        found = _pieces(tokenizer, parts[0])
        if len(parts) == 2:
            found += [(tokenizer.convert_tokens_to_ids(IMAGE), at)] * image_tokens
            found += [(token, at + len(IMAGE) + first) for token, first in _pieces(tokenizer, parts[1])]
        begins = tokenizer.bos_token_id is not None
    if begins and (not found or found[0][0] != tokenizer.bos_token_id):
        found.insert(0, (tokenizer.bos_token_id, -1))
    return found


def _pieces(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [(token, first) for token, (first, _) in zip(found["input_ids"], found["offset_mapping"], strict=True)]


def check_texts(batch: Mapping[str, Any], tokenizer: Any, first_alone: bool = False) -> None:
    """Raise ValueError, naming the target, if a text of a batch holds a word that steers the model instead of being read.

    Args:
        batch: ``id`` and ``texts`` of each sample; ``answer``, ``correction`` and ``turns`` where they are read.
        first_alone: only the first text of a sample is asked.
    """
    special = [word for word in tokenizer.all_special_tokens if word]
    for number, (name, texts) in enumerate(zip(batch["id"], batch["texts"], strict=True)):
        also = [batch[key][number] or "" for key in ("answer", "correction") if key in batch]
        also += batch["turns"][number] or () if "turns" in batch else ()
        for text in (*(texts[:1] if first_alone else texts), *also):
            if words := sorted({*_CONTROL.findall(text), *(word for word in special if word in text)}):
                raise ValueError(
                    f"target {name}: its text {text!r} holds {', '.join(words)}, which the model does not read as text; "
                    "change it in the data set, and run index"
                )


def cut(row: Encoded, length: int) -> Encoded:
    """The first ``length`` tokens of a conversation."""
    return Encoded(row.ids[:length], row.labels[:length])


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> torch.Tensor:
    """Rows of different lengths as int64 [B, L]."""
    length = max(map(len, rows))
    filled = [[value] * (length - len(row)) for row in rows]
    return torch.tensor([[*fill, *row] if left else [*row, *fill] for row, fill in zip(rows, filled, strict=True)])


def collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``labels`` int64 [B, L], padded at the end.

    Padding is not masked: a token sees only earlier tokens, so no token with a label sees the padding at the end, and attention
    without a mask has faster kernels.
    """
    return {
        "input_ids": pad([row.ids for row in encoded], pad_id),
        "labels": pad([row.labels for row in encoded], IGNORED),
    }
