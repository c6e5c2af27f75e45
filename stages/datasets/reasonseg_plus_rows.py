"""Rows of MUSE, MMR and LISA++: which picture they are about, what they ask, and which masks are the answer.

MUSE and MMR (MaverickRen/PixelLM, jdg900/MMR) give each question a list of masks and a text with ``{seg}`` for each of them. LISA++
gives masks an identifier, by which an answer in words points to them: ``<380| remote>``, ``[<380| remote>, <348| remote>]``,
``《380| remote》`` or ``pizza <380>``. Its files are read as rui-qian/UGround reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stages.datasets.jsonfile import field, text
from stages.datasets.segments import polygons
from stages.images import ImageFailure, check_inside
from stages.names import type_name

MAX_TEXT_CHARS = 2**16
_PICTURE_KEYS = ("img_path", "image_path", "img_pth")
_SEG = "{seg}"
_REFERENCE = re.compile(
    r"[<《]\s{0,9}(?P<id>\d+)\s{0,9}\|\s{0,9}(?P<label>[^<>《》|]{0,99}?)\s{0,9}[>》]"
    r"|(?<!\w)(?P<word>\w+)\s{0,9}<(?P<after>\d+)>"
    r"|(?<=[\[,])\s{0,9}(?P<bare>\d+)\s{0,9}\|\s{0,9}(?P<named>[^<>《》|,\[\]]{0,99})"
)
_BEFORE_A_STOP = re.compile(r" (?=[.,;:!?])")
_LIST = re.compile(r"\[([^\[\]]*)\]")
_SPEAKER = re.compile(r"<(person|robot)>:")


@dataclass(frozen=True)
class Asked:
    """A question and its masks: label and ``segmentation`` of each. incomplete: not all of its kind are marked in the picture."""

    question: str
    answer: str | None
    parts: tuple[tuple[str, Any], ...]
    incomplete: bool = False


def picture_of(row: Mapping[str, Any]) -> str:
    """Where the row's picture is expected: COCO's folder and file name. ImageFailure if it does not name a picture."""
    if "file_name" in row:
        name = field(row, "file_name", str)
        path = name if "/" in name else f"train2014/{name}"
    elif "coco_url" in row:
        path = "/".join(field(row, "coco_url", str).split("/")[-2:])
    else:
        key = next((key for key in _PICTURE_KEYS if key in row), None)
        if key is None:
            raise ImageFailure(
                f"names no picture, expected one of 'file_name', 'coco_url', {', '.join(map(repr, _PICTURE_KEYS))}"
            )
        path = f"train2017/{field(row, key, str)}"
    check_inside(path)
    return path


def size_of(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width, px, that the row states for its picture; None: not stated."""
    if "height" not in row and "width" not in row:
        return None
    return field(row, "height", int), field(row, "width", int)


def asked_in(row: Mapping[str, Any]) -> Iterator[Asked | str]:
    """What a row asks, in its order; a text among the results is the note about a question that is left out.

    Raises:
        ImageFailure: a key is missing or of another type.
    """
    if "output" in row:
        yield from _conversation(row)
    elif "ID" in row:
        yield _instances(row)
    elif "English Question" in row:
        yield _pointed(row, field(row, "English Question", str), field(row, "English Answer", str))
    elif "questions" in row:
        yield from _listed(row)
    else:
        yield "row without a question, left out"


def _listed(row: Mapping[str, Any]) -> Iterator[Asked | str]:
    """What a row of MUSE or MMR asks."""
    questions, answers = field(row, "questions", list), field(row, "answers", list)
    texts = field(row, "text_answers", list) if row.get("text_answers") is not None else [None] * len(questions)
    if not len(questions) == len(answers) == len(texts):
        raise ImageFailure(
            f"found {len(questions)} 'questions', {len(answers)} 'answers' and {len(texts)} 'text_answers', "
            "expected one of each for every question"
        )
    partial = field(row, "not_exhaustive_category_ids", list) if row.get("not_exhaustive_category_ids") else []
    for number, (question, masks, words) in enumerate(zip(questions, answers, texts, strict=True)):
        where = f"question {number}"
        if not isinstance(masks, list):
            raise ImageFailure(f"answer of {where} is {type_name(masks)}, expected list")
        parts = tuple((_name(mask), _segmentation(mask)) for mask in masks)
        words = _short(words, f"text answer of {where}") if words else None
        if words is not None and words.count(_SEG) != len(parts):
            yield "answer with another number of {seg} than masks, left out"
        elif not parts:
            yield "question without a mask, left out"
        else:
            yield Asked(
                question=_short(question, where),
                answer=None if words is None else _BEFORE_A_STOP.sub("", " ".join(words.replace(_SEG, " ").split())),
                parts=parts,
                incomplete=any(mask.get("category_id") in partial for mask in masks),
            )


def _segmentation(mask: Any) -> Any:
    return (
        mask["segmentation"] if isinstance(mask, dict) and "segmentation" in mask else field(mask, "segmentation", list)
    )


def _name(mask: Any) -> str:
    key = "rephrased_name" if isinstance(mask, dict) and mask.get("rephrased_name") else "category_name"
    return text(field(mask, key, str), f"'{key}'")


def _instances(row: Mapping[str, Any]) -> Asked | str:
    """What a row of LISA++'s Instance_Seg asks: the masks are listed."""
    masks = field(row, "points", dict)
    known = [str(each) for each in field(row, "ID", list) if str(each) in masks]
    if not known:
        return "question without a mask, left out"
    parts = tuple((_label(masks[each]), polygons_of(masks[each])) for each in dict.fromkeys(known))
    return Asked(_short(field(row, "English Question", str), "'English Question'"), None, parts)


def _conversation(row: Mapping[str, Any]) -> Iterator[Asked | str]:
    """What a row of LISA++'s Conversations asks: a question is what comes before the robot speaks."""
    _, *pieces = _SPEAKER.split(_short(field(row, "output", str), "'output'"))
    spoken = list(zip(pieces[::2], pieces[1::2], strict=True))
    for (speaker, question), (other, answer) in pairwise(spoken):
        if (speaker, other) == ("person", "robot"):
            yield _pointed(row, question, answer)


def _pointed(row: Mapping[str, Any], question: str, answer: str) -> Asked | str:
    """What a row of LISA++'s COT, Caption or Conversations asks: the answer's words point to the masks."""
    masks = field(row, "info", dict)
    words, pointed = _references(_short(answer, "answer"))
    known = {each: label for each, label in pointed.items() if each in masks}
    if not known:
        return "answer that points to no mask, left out"
    parts = tuple((_label(masks[each]) or label, polygons_of(masks[each])) for each, label in known.items())
    return Asked(_references(_short(question, "question"))[0], words, parts)


def _references(words: str) -> tuple[str, dict[str, str]]:
    """A text with names in place of references, and the references: identifier -> name."""
    found: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        each = match["id"] or match["after"] or match["bare"]
        label = (match["label"] or match["word"] or match["named"] or "").strip()
        found.setdefault(each, label)
        return f" {label}" if match["bare"] else label

    def unlisted(match: re.Match[str]) -> str:
        # A bare reference stands after a bracket or a comma, so these stay until it is replaced.
        return match[0] if not _REFERENCE.search(match[0]) else _REFERENCE.sub(name, match[0])[1:-1].strip()

    return _REFERENCE.sub(name, _LIST.sub(unlisted, words)).strip(), found


def polygons_of(mask: Any) -> list[Any]:
    """The :func:`stages.datasets.segments.polygons` of a LISA++ mask: the value itself, or its ``polygon`` or ``points``."""
    return polygons(mask.get("polygon", mask.get("points")) if isinstance(mask, dict) else mask)


def _label(mask: Any) -> str:
    found = mask.get("label name") if isinstance(mask, dict) else None
    return text(found, "'label name'") if found else ""


def _short(value: Any, what: str) -> str:
    found = text(value, what)
    if len(found) > MAX_TEXT_CHARS:
        raise ImageFailure(f"{what} has {len(found)} characters, expected at most {MAX_TEXT_CHARS}")
    return found.strip()
