"""Scenes with real files, and replies, for the tests of what looks at pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.questions.items import Pair, Scene, Thing
from stages.questions.requests import Answer

DOG = Thing("dog", "dog", ("hound", "puppy"), "", (0,))
CUP = Thing("cup", "cup", ("mug",), "", (1, 2))
SIGN = Thing("stop_sign", "stop sign", (), "", (3,))
WOMAN = Thing("person", "woman", ("lady",), "", (4,))


def scene_of(pixels: np.ndarray, path: Path, things: tuple[Thing, ...] = (DOG, CUP, SIGN), **how: Any) -> Scene:
    """A scene whose file (PNG, or as ``path`` ends) holds the pixels."""
    Image.fromarray(pixels).save(path, **how)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Scene("street/1", "simple", str(path), digest, *pixels.shape[:2], things)


def scene(**fields: Any) -> Scene:
    """A scene whose file nobody looks at."""
    given: dict[str, Any] = {"things": (DOG, CUP, SIGN), "absent": (), **fields}
    return Scene("street/1", "simple", "/nowhere.png", "0" * 64, 40, 60, **given)


def pair(question: str = "Which of these would welcome a walk?", labels: tuple[str, ...] = ("dog",)) -> Pair:
    return Pair("street/1", 3, question, labels[0], labels, f"[Q]: {question} [A]: {labels[0]}")


def answer(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text, finish_reason, "seer-1", 100, 10, 0.0)
