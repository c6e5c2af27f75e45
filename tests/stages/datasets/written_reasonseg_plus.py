"""Rows of MUSE, MMR and LISA++ as their releases and the readers of other projects have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from written_llmseg40k import run_lengths

Points = Sequence[tuple[float, float]]


def flat(points: Points) -> list[float]:
    return [coordinate for point in points for coordinate in point]


def muse_row(
    picture: Mapping[str, Any],
    size: tuple[int, int],
    asked: Sequence[tuple[str, Sequence[tuple[str, Sequence[Points]]], str | None]],
    **more: Any,
) -> dict[str, Any]:
    """A row of MUSE: question, (name, polygons) of each mask, and the text answer of each question.

    picture: ``{"file_name": ...}`` of train2014, else ``{"coco_url": ...}``.
    """
    answers = [
        [
            {
                "bbox": [0, 0, 1, 1],
                "segmentation": [flat(polygon) for polygon in polygons],
                "category_name": "thing",
                "rephrased_name": name,
                "category_id": 7,
            }
            for name, polygons in masks
        ]
        for _, masks, _ in asked
    ]
    row = {
        **picture,
        "height": size[0],
        "width": size[1],
        "ann_list": [mask for masks in answers for mask in masks],
        "questions": [question for question, _, _ in asked],
        "answers": answers,
    }
    if any(words is not None for _, _, words in asked):
        row["text_answers"] = [words for _, _, words in asked]
    return {**row, **more}


def mmr_row(
    file_name: str, size: tuple[int, int], asked: Sequence[tuple[str, Sequence[tuple[str, int, Any]], str]], **more: Any
) -> dict[str, Any]:
    """A row of MMR: question, (name, category, mask) of each mask, and the text answer of each question."""
    answers = [
        [
            {
                "bbox": [0.0, 0.0, 1.0, 1.0],
                "segmentation": run_lengths(mask),
                "category_name": name,
                "category_id": number,
            }
            for name, number, mask in masks
        ]
        for _, masks, _ in asked
    ]
    return {
        "file_name": file_name,
        "height": size[0],
        "width": size[1],
        "image_id": 9,
        "not_exhaustive_category_ids": [],
        "neg_category_ids": [],
        "coco_url": f"http://images.cocodataset.org/{file_name}",
        "questions": [question for question, _, _ in asked],
        "annotations": [mask for masks in answers for mask in masks],
        "answers": answers,
        "text_answers": [words for _, _, words in asked],
        "raw_answers": [words for _, _, words in asked],
        **more,
    }


def write(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
