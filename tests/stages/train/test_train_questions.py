"""A question that holds a control token stops training before it begins, and its image is named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from stages.train.questions import check_questions, control_tokens


def split(*targets: tuple[str, list[str], str | None]) -> Any:
    """What :func:`check_questions` sees of a split: a question per image."""
    rows = [
        {"target_id": f"{name}/0", "image_index": number, "texts": texts, "answer": answer}
        for number, (name, texts, answer) in enumerate(targets)
    ]
    schema = {
        "target_id": pa.string(),
        "image_index": pa.int64(),
        "texts": pa.list_(pa.string()),
        "answer": pa.string(),
    }
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(schema.items())))
    column = SimpleNamespace(meta=SimpleNamespace(shards=1), table=lambda shard: table)
    return SimpleNamespace(image_ids=[name for name, _, _ in targets], column=lambda name: column)


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("what is <image> here", "<image>"),
        ("two <image><image>", "<image>"),
        ("loud <IMAGE>", "<IMAGE>"),
        ("END USER: what", "END"),
        ("is [SEG] it", "[SEG]"),
        ("it is [rej]", "[rej]"),
        ("the <SEG_MASK_12>", "<SEG_MASK_12>"),
    ],
)
@pytest.mark.parametrize("place", ["first text", "second text", "answer"])
def test_the_image_of_a_control_token_is_named(tokenizer: Any, text: str, token: str, place: str) -> None:
    text, token = (word.replace("END", tokenizer.eos_token) for word in (text, token))
    texts = [text] if place == "first text" else ["why", text] if place == "second text" else ["why"]
    bad = split(("ant", ["what is it?"], "a < b > c"), ("bee", texts, text if place == "answer" else None))
    with pytest.raises(
        ValueError, match=r"^1 texts hold a control token .*train/bee \(target bee/0\): .*run: python cli.py index$"
    ) as caught:
        check_questions(tokenizer, {"train": bad}, training=True)
    assert repr(token) in str(caught.value)
    if place == "first text":
        with pytest.raises(ValueError, match="bee/0"):
            check_questions(tokenizer, {"val": bad}, training=False)
    else:
        check_questions(tokenizer, {"val": bad}, training=False)  # nobody asks or says it


def test_of_many_the_first_are_named(tokenizer: Any) -> None:
    many = split(*((f"image{number}", ["<image>"], None) for number in range(9)))
    with pytest.raises(ValueError, match=r"^9 texts .*image4 .*and 4 more; reword"):
        check_questions(tokenizer, {"train": many}, training=True)


def test_ordinary_text_is_none_of_it(tokenizer: Any) -> None:
    for text in ("a < b > c", "the image", "[a] {text} (s)", "</p>", "unk", "seg [ seg ]", "\u732b"):
        assert not control_tokens(tokenizer).search(text), text
