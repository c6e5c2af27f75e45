"""A verifier that sees only image bytes: `demo_llava` answers the question, and its answer is compared with what is outlined.

It names a right cell for 58 % of long questions, and one next to it for 77 % (docs/results.md). The outlined region is found in
the picture by the outline's colours.
"""

from __future__ import annotations

import base64
import io
import threading
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from demo.measure.ask import Place, judge, places
from demo.models.dialogues import GRID
from demo.models.train_llava import OUT
from stages.encoders import EncoderInput, build
from stages.questions.pictures import LIGHT
from stages.train.language.llava import FeatureLlava, load_llava
from stages.train.language.text import IMAGE, encode_prompt

MODEL = "demo-looker"
MOST_PX = 4096
_FAR, _DARK = 60, 90
"""Largest difference of an outline's pixel from its colour in any channel after JPEG, and largest brightness of its rim."""


class Looker:
    """The model, loaded once. One question is answered at a time."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._clip = build("demo_clip", {"demo_clip": OUT.parent / "demo_clip.safetensors"}, "cpu", 1)
        self._llava: FeatureLlava
        self._llava, self._tokenizer = load_llava(str(OUT), "float32")
        self._llava.eval()
        self._one = threading.Lock()

    def verify(self, body: dict[str, Any]) -> str:
        """The verdict about a request that verify-1 made: the whole picture with the answer outlined, a crop, and the question."""
        parts = body["messages"][-1]["content"]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        pixels = _decoded(pictures[0])
        question = texts[-1].partition("[Question]: ")[2].strip()
        with self._one:
            said = self.answer(pixels, question)
        wanted, found = enclosed(pixels), places(said)
        _, about = judge(wanted, found)
        word = "yes" if about else "no"
        return f"VERDICT: {word}\nREASON: the question leads to {said or 'nothing'}."

    @torch.inference_mode()
    def answer(self, pixels: NDArray[np.uint8], question: str) -> str:
        """What `demo_llava` answers to a question about RGB pixels [H, W, 3]."""
        (vectors,) = self._clip([EncoderInput(pixels)])
        features = torch.from_numpy(np.asarray(vectors, np.float32))[None]
        ids = torch.tensor([encode_prompt(self._tokenizer, f"{IMAGE}\n{question}", features.shape[1])])
        found = self._llava.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=features,
            max_new_tokens=32,
            do_sample=False,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        text: str = self._tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
        return text


def enclosed(pixels: NDArray[np.uint8]) -> set[Place]:
    """The cells of the middles of the outlined regions in RGB pixels [H, W, 3]."""
    near = (np.abs(pixels.astype(int) - LIGHT) < _FAR).all(axis=2)
    dark = cv2.dilate((pixels.max(axis=2) < _DARK).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    line = cv2.dilate((near & dark).astype(np.uint8), np.ones((3, 3), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(line, connectivity=8)
    height, width = line.shape
    boxes = [tuple(int(value) for value in stats[number][:4]) for number in range(1, count)]
    boxes = [box for box in boxes if box[2] >= 4 and box[3] >= 4]
    outer = [box for box in boxes if not any(other != box and _inside(box, other) for other in boxes)]
    return {
        (min(GRID, int((x + w / 2) / width * GRID) + 1), min(GRID, int((y + h / 2) / height * GRID) + 1))
        for x, y, w, h in outer
    }


def _inside(box: tuple[int, ...], other: tuple[int, ...]) -> bool:
    x, y, w, h = box
    left, top, width, height = other
    return x >= left and y >= top and x + w <= left + width and y + h <= top + height


def _decoded(url: str) -> NDArray[np.uint8]:
    data = base64.b64decode(url.partition("base64,")[2], validate=True)
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if max(image.size) > MOST_PX:
            raise ValueError(f"a picture of {image.size[0]} x {image.size[1]} px, expected at most {MOST_PX} on a side")
        return np.asarray(image.convert("RGB"))
