"""LLM-Seg40K as its release has it: one JSON per split, an object by image file name, masks as compressed run lengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask


def run_lengths(mask: Any) -> dict[str, Any]:
    """A mask [H, W] as the release writes it: the string of pycocotools, not bytes."""
    found = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, found["size"])), "counts": found["counts"].decode()}


def pair(question: str, answer: str, mask: Any, number: int = 0) -> dict[str, Any]:
    return {
        "question": question,
        "answer": answer,
        "rle_seg": run_lengths(mask),
        "segmentation_path": f"/home/someone/segmentation/{number}.png",
    }


def write(root: Path, split: str, coco: dict[str, Any], ego_objects: dict[str, Any] | None = None) -> None:
    """Write a split: file name -> pairs, of the pictures of each source."""
    rows = {
        name: {"from_dataset": source, "qa_pairs": pairs}
        for source, images in (("coco", coco), ("ego_objects", ego_objects or {}))
        for name, pairs in images.items()
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}.json").write_text(json.dumps(rows))
