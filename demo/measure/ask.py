"""How well `demo_llava` finds what a question means in scenes it has not seen: its answers name cells of a grid.

`python -m demo.measure.ask --scenes 50 --first-seed 700000`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from demo.models.dialogues import COLUMNS, Asked
from demo.models.llava_examples import Seen, see
from demo.models.train_llava import OUT
from stages.train.language.llava import FeatureLlava, load_llava
from stages.train.language.text import IMAGE, encode_prompt, pad

_PLACE = re.compile(rf"\b([{COLUMNS}])(\d)\b")
Place = tuple[int, int]


def places(text: str) -> set[Place]:
    """The cells a text names."""
    return {(COLUMNS.index(column) + 1, int(row)) for column, row in _PLACE.findall(text)}


@torch.inference_mode()
def answers(model: FeatureLlava, tokenizer: Any, asked: Sequence[tuple[Seen, Asked]], batch: int = 32) -> list[str]:
    """Generated answers."""
    said = []
    for start in tqdm(range(0, len(asked), batch), unit="batch", disable=None):
        part = asked[start : start + batch]
        texts = [
            f"{IMAGE}\n{question.texts[0] if question.is_sentence else f'What is {question.texts[0]} in this image?'}"
            for _, question in part
        ]
        tokens = len(part[0][0].features)
        ids = pad([encode_prompt(tokenizer, text, tokens) for text in texts], tokenizer.pad_token_id, left=True)
        features = torch.from_numpy(np.stack([seen.features for seen, _ in part])).float()
        found = model.generate(
            input_ids=ids,
            attention_mask=(ids != tokenizer.pad_token_id).long(),
            pixel_values=features,
            max_new_tokens=32,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        said += tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
    return said


def judge(wanted: set[Place], found: set[Place]) -> tuple[bool, bool]:
    """Whether all and only the right cells are named; and whether they are when a neighbouring cell counts as right."""

    def near(place: Place, among: set[Place]) -> bool:
        return any(abs(place[0] - other[0]) <= 1 and abs(place[1] - other[1]) <= 1 for other in among)

    about = bool(wanted) == bool(found) and all(near(p, found) for p in wanted) and all(near(p, wanted) for p in found)
    return wanted == found, about


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure.ask", description=__doc__)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--first-seed", type=int, required=True)
    parser.add_argument("--model", type=Path, default=OUT)
    arguments = parser.parse_args()
    model: FeatureLlava
    model, tokenizer = load_llava(str(arguments.model), "float32")
    model.eval()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    asked = [(seen, q) for seen in see(seeds, OUT.parent / "demo_clip.safetensors") for q in seen.about.asked]
    found = answers(model, tokenizer, asked)
    print("| questions | number | right cells | right or next to them |")
    print("|---|---|---|---|")
    for kind in ("short", "long", "absent"):
        marks = [
            judge(places(" ".join(thing.place for thing in question.things)), places(text))
            for (_, question), text in zip(asked, found, strict=True)
            if kind_of(question) == kind
        ]
        exact, about = (100 * sum(mark[k] for mark in marks) / max(1, len(marks)) for k in (0, 1))
        print(f"| {kind} | {len(marks)} | {exact:.1f} % | {about:.1f} % |")


def kind_of(question: Asked) -> str:
    """What a question counts as in the table."""
    if not question.things:
        return "absent"
    return "long" if question.is_sentence else "short"


if __name__ == "__main__":
    main()
