"""Finds texts that hold a control token of the language model, which would steer the model instead of being read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from stages.train.language.mask_words import REJ
from stages.train.language.prompts import SEG
from stages.train.language.text import IMAGE
from store.split import Split

SHOWN = 5


def check_questions(tokenizer: Any, splits: Mapping[str, Split], training: bool, every: bool = False) -> None:
    """Find texts that hold a control token, before any of them is asked. Needs the column ``targets``.

    Args:
        splits: name -> split.
        training: every text, answer in words, correction and turn is used; else only the first text of each target.
        every: every text is used, without the answers.

    Raises:
        ValueError: there are such texts; the message names the first few by split, image and target.
    """
    control = control_tokens(tokenizer)
    bad = []
    for name, split in splits.items():
        for target, text in _texts(split, training, every):
            if found := control.search(text):
                image = split.image_ids[target["image_index"]]
                bad.append(f"{name}/{image} (target {target['target_id']}): {found.group()!r} in {text[:80]!r}")
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(
            f"{len(bad)} texts hold a control token of the language model: {'; '.join(bad[:SHOWN])}{more}; reword them in the "
            "annotation files, then run: python cli.py index"
        )


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """The tokenizer's special tokens and those that the systems add, in upper or lower case, as phrases are lower-cased."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    words = {*special, *tokenizer.all_special_tokens, IMAGE, SEG, REJ}
    parts = [re.escape(word) for word in sorted(words, key=len, reverse=True) if word.strip()]
    return re.compile("|".join([*parts, r"<SEG_MASK_\d+>"]), re.IGNORECASE)


def _texts(split: Split, training: bool, every: bool) -> Iterator[tuple[dict[str, Any], str]]:
    column = split.column("targets")
    for shard in range(column.meta.shards):
        table = column.table(shard)
        more = [name for name in ("answer", "correction", "turns") if training and name in table.column_names]
        for target in table.select(["target_id", "image_index", "texts", *more]).to_pylist():
            yield from ((target, text) for text in (target["texts"] if training or every else target["texts"][:1]))
            yield from ((target, target[name]) for name in more if isinstance(target[name], str))
            yield from ((target, turn) for turn in (target.get("turns") or ())[1:])  # the first is its text
