"""Folders of referring expressions in their official form, and the pickles of Python 2 that they are made of.

Written from the descriptions of lichengunc/refer, henghuiding/gRefCOCO and of Python's ``pickletools``.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
BESIDE = [40.0, 12.0, 55.0, 12.0, 55.0, 40.0, 40.0, 40.0]
OVER = [20.0, 15.0, 45.0, 15.0, 45.0, 35.0, 20.0, 35.0]
HEIGHT, WIDTH = 48, 64


class Attack:
    """What runs a command when ``pickle`` loads it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


class Long(int):
    """A number that Python 2 keeps as a ``long``."""


class Unicode(str):
    """A string that Python 2 keeps as ``unicode``; others are bytes there, in UTF-8."""


def python2(value: Any, protocol: int = 0) -> bytes:
    """The pickle that cPickle of Python 2 makes, protocol 0 or 2; it remembers containers and strings, from number 1 on."""
    memo: dict[Any, int] = {}
    body = _python2(value, protocol, memo)
    return (b"\x80\x02" if protocol == 2 else b"") + body + b"."


def _python2(value: Any, protocol: int, memo: dict[Any, int]) -> bytes:
    def get(number: int) -> bytes:
        if protocol == 0:
            return b"g%d\n" % number
        return b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)

    def put(key: Any) -> bytes:
        number = memo[key] = len(memo) + 1
        if protocol == 0:
            return b"p%d\n" % number
        return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def inner(each: Any) -> bytes:
        return _python2(each, protocol, memo)

    if value is None:
        return b"N"
    if isinstance(value, bool):
        return (b"I01\n" if value else b"I00\n") if protocol == 0 else (b"\x88" if value else b"\x89")
    if isinstance(value, Long) or (isinstance(value, int) and not -(2**31) <= value < 2**31):
        data = int(value).to_bytes(int(value).bit_length() // 8 + 1, "little", signed=True)
        return b"L%dL\n" % value if protocol == 0 else b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, int):
        if protocol == 0:
            return b"I%d\n" % value
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if 0 <= value < 2**16 else b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"F%s\n" % repr(value).encode() if protocol == 0 else b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        kind = isinstance(value, Unicode)
        if (kind, value) in memo:
            return get(memo[kind, value])
        data = value.encode("utf-8")
        if kind and protocol == 0:
            text = b"V" + value.replace("\\", "\\u005c").replace("\n", "\\u000a").encode("raw-unicode-escape") + b"\n"
        elif kind:
            text = b"X" + struct.pack("<I", len(data)) + data
        elif protocol == 0:
            text = b"S" + repr(data)[1:].encode() + b"\n"
        else:
            text = b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data
        return text + put((kind, value))
    if isinstance(value, tuple):
        body = b"".join(inner(each) for each in value)
        short = {1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(value))
        made = body + short if short and protocol == 2 else b"(" + body + b"t"
        return made + put(("tuple", len(memo)))
    if isinstance(value, list):
        start = (b"(l" if protocol == 0 else b"]") + put(("list", len(memo)))
        if protocol == 0:
            return start + b"".join(inner(each) + b"a" for each in value)
        return start + (b"(" + b"".join(inner(each) for each in value) + b"e" if value else b"")
    start = (b"(d" if protocol == 0 else b"}") + put(("dict", len(memo)))
    pairs = [inner(key) + inner(each) for key, each in value.items()]
    if protocol == 0:
        return start + b"".join(pair + b"s" for pair in pairs)
    return start + (b"(" + b"".join(pairs) + b"u" if pairs else b"")


def ref(number: int, image: int, ann_id: Any, *sents: Any, split: str = "train", **more: Any) -> dict[str, Any]:
    """A ref; sents are texts, or (text, further fields)."""
    sentences = []
    for position, each in enumerate(sents):
        text, fields = each if isinstance(each, tuple) else (each, {})
        tokens = text.lower().split()
        sentences.append({"tokens": tokens, "raw": text, "sent_id": 10 * number + position, "sent": text, **fields})
    return {
        "sent_ids": [each["sent_id"] for each in sentences],
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "ann_id": ann_id,
        "ref_id": number,
        "image_id": image,
        "split": split,
        "sentences": sentences,
        "category_id": 1,
        **more,
    }


def thing(number: int, image: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    """An annotation of COCO form."""
    fields = {
        "segmentation": segmentation,
        "area": 300.5,
        "iscrowd": 0,
        "image_id": image,
        "bbox": [10.0, 10.0, 20.0, 15.0],
    }
    return {**fields, "category_id": 1, "id": number, **more}


def write_refs(root: Path, refs: Sequence[Any], name: str = "refs(unc).p", protocol: int = 0) -> None:
    data = json.dumps(refs).encode() if name.endswith(".json") else python2(list(refs), protocol)
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)


def write_instances(
    root: Path, things: Sequence[Any], images: Sequence[int] = (7, 9), names: str = "COCO_train2014_{:012d}.jpg"
) -> None:
    pictures = [
        {"file_name": names.format(each), "height": HEIGHT, "width": WIDTH, "id": each, "license": 1} for each in images
    ]
    categories = [
        {"supercategory": "person", "id": 1, "name": "person"},
        {"supercategory": "animal", "id": 2, "name": "cat"},
    ]
    document = {"info": {}, "licenses": [], "images": pictures, "annotations": list(things), "categories": categories}
    root.mkdir(parents=True, exist_ok=True)
    (root / "instances.json").write_text(json.dumps(document))
