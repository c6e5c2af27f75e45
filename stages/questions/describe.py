"""Step describe: image -> what it shows, in words, by a model that sees it, or from a file of descriptions or tags.

LLM-Seg's paper (section 4) has LLaVA describe each image in at most ten sentences, in a conversation of one turn. ReasonSeg began
with tags instead (appendix of LISA's paper), which RAM writes as ``dog | sofa | sleep``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.datasets.base import DatasetError
from stages.datasets.jsonfile import MAX_SET_BYTES
from stages.images import ImageFailure, read_file
from stages.names import type_name
from stages.questions.items import Reason, Rejected, Scene
from stages.questions.params import DescribeParams
from stages.questions.parse import trouble
from stages.questions.prompts import load_prompt
from stages.questions.requests import Reply, Request, Sampling

_SENTENCE_END = re.compile(r"[.!?](?=\s)")


def describe_request(scene: Scene, params: DescribeParams, model: str) -> Request:
    """The request for a description of an image, with the image; ``model``: the name that the endpoint knows it by.

    Raises:
        PromptError: the template is missing, malformed, or has a placeholder.
    """
    from stages.questions.pictures import whole  # decodes pictures, which stored descriptions do not need

    prompt = load_prompt(params.prompt)
    messages = prompt.messages((whole(scene, params.side_px),))
    sampling = Sampling(params.max_tokens, params.temperature)
    return Request("describe", scene.image_id, model, messages, sampling, prompt.record)


def read_description(image_id: str, reply: Reply) -> str | Rejected:
    """The description that a model gave, on one line; or why it gave no usable one.

    If it was cut off at ``max_tokens``, its complete sentences are kept.
    """
    found = trouble(image_id, reply)
    if isinstance(found, Rejected):
        return found
    text = " ".join(found.text.split())
    if found.finish_reason == "length":
        ends = [each.end() for each in _SENTENCE_END.finditer(text)]
        if not ends:
            return Rejected(image_id, None, Reason.CUT, text, "no sentence is complete")
        text = text[: ends[-1]]
    return text


def stored_descriptions(path: Path) -> dict[str, str]:
    """image_id -> description, from a file: a JSON object by image_id, or JSON Lines with ``image_id`` and ``description``.

    Raises:
        DatasetError: the file is missing, empty or has neither form, or an image has two descriptions or a blank one.
    """
    return {image_id: _text(value, f"{path}: {image_id!r:.60}") for image_id, value in _stored(path, "description")}


def stored_tags(path: Path) -> dict[str, tuple[str, ...]]:
    """image_id -> tags, from a file as :func:`stored_descriptions` reads, with ``tags`` in place of ``description``.

    Tags are a list of texts, or one text with ``|`` between them (RAM's form) or, if it has no ``|``, commas.

    Raises:
        DatasetError: as for :func:`stored_descriptions`.
    """
    return {image_id: _tags(value, f"{path}: {image_id!r:.60}") for image_id, value in _stored(path, "tags")}


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DatasetError(f"{place}: found {value!r:.60}, expected a text that is not blank")
    return value.strip()


def _tags(value: Any, place: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split("|" if "|" in value else ",")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise DatasetError(f"{place}: found {value!r:.60}, expected a list of tags, or a text such as 'dog | sofa'")
    tags = tuple(dict.fromkeys(tag for each in value if (tag := each.strip())))
    if not tags:
        raise DatasetError(f"{place}: found no tag, expected at least one")
    return tags


def _stored(path: Path, key: str) -> list[tuple[str, Any]]:
    """The rows of a file, by image_id."""
    form = f"expected a JSON object by image_id, or JSON Lines with 'image_id' and {key!r}"
    try:
        text = read_file(path, MAX_SET_BYTES).decode("utf-8-sig")
        rows = list(_rows(text, key))
    except (ImageFailure, OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: {error}; {form}") from error
    if not rows:
        raise DatasetError(f"{path}: found no image; {form}")
    seen: set[str] = set()
    for image_id, _ in rows:
        if image_id in seen:
            raise DatasetError(f"{path}: {image_id!r:.60} appears twice, expected each image once")
        seen.add(image_id)
    return rows


def _rows(text: str, key: str) -> Iterator[tuple[str, Any]]:
    """Rows of either form. The file is JSON Lines if its first line alone is a row."""
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and not _is_row(lines[0]):
        found = json.loads(text, object_pairs_hook=list)  # as pairs, since a repeated key would be lost in a dict
        if not text.lstrip().startswith("{"):
            raise ValueError(f"found {type_name(found)}")
        yield from found
        return
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), str) or key not in row:
            raise ValueError(f"line {number} is {line!r:.80}")
        yield row["image_id"], row[key]


def _is_row(line: str) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and isinstance(row.get("image_id"), str) and len(row) > 1
