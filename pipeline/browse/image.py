"""All that a page shows of one image: its masks by each proposer, its annotation, its questions, and what each run answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.browse.answers import Answers, answer_iou
from pipeline.browse.shelf import Shown
from stages.predictions import PredictionError
from store import rle
from store.errors import ChangedError, RleError, StoreError
from store.format.schema import OK
from store.outlines import outline

MOST_MASKS = 500
"""This many masks of each proposer are drawn, the largest first."""


def brief(shown: Shown, image_index: int) -> dict[str, Any]:
    """What the grid shows of an image: name, size, status, its first question, and how many masks each proposer found."""
    row = _image(shown, image_index)
    found = {**row, "text": "", "questions": 0, "masks": {}}
    targets = rows_of(shown, "targets", image_index)
    if isinstance(targets, list) and targets:
        texts = next((target["texts"] for target in targets if target["texts"]), [""])
        found |= {"text": texts[0][:300], "questions": len(targets)}
    for proposer in shown.opened.proposers:
        if (state := shown.states.get(f"masks/{proposer}")) is not None and state.code[image_index] == 0:
            found["masks"][proposer] = int(state.entries[image_index])
    return found


def whole(shown: Shown, image_index: int, answers: Mapping[str, Answers]) -> dict[str, Any]:
    """Everything of an image. What cannot be read has its reason, as ``error``, in its place."""
    row = _image(shown, image_index)
    size = row["height"], row["width"]
    targets = rows_of(shown, "targets", image_index)
    found: dict[str, Any] = {"image": row, "proposers": {}, "runs": {}}
    found["instances"] = _instances(shown, image_index, size[0])
    asked = targets if isinstance(targets, list) else []
    found["targets"] = [_target(target, size[0]) for target in asked] if asked else {"error": targets or ""}
    for proposer in shown.opened.proposers:
        if f"masks/{proposer}" in shown.opened.columns:
            found["proposers"][proposer] = _proposals(shown, image_index, proposer, size[0])
    for name, each in answers.items() if asked else ():
        found["runs"][name] = _answered(each, asked, size)
    return found


def _image(shown: Shown, image_index: int) -> dict[str, Any]:
    (row,) = shown.opened.columns["images"].table_rows(image_index)
    return {
        "index": image_index,
        "id": row["image_id"],
        "path": row["path"],
        "height": row["height_px"],
        "width": row["width_px"],
        "status": row["status"],
        "error": row["error"],
        "sha256": row["sha256"],
    }


def rows_of(shown: Shown, name: str, image_index: int) -> list[dict[str, Any]] | str:
    """An image's rows of a table, or why they are missing; the empty text where the column is not there."""
    if name not in shown.opened.columns:
        return ""
    try:
        return shown.opened.columns[name].table_rows(image_index)
    except ChangedError:
        raise
    except StoreError as error:
        return str(error)


def _instances(shown: Shown, image_index: int, height_px: int) -> list[dict[str, Any]]:
    rows = rows_of(shown, "instances", image_index)
    if isinstance(rows, str) or rows[0]["status"] != OK:
        return []
    (row,) = rows
    return [
        {"label": label, "area": area, "d": _drawn(counts, height_px)}
        for label, area, counts in zip(row["label"], row["area"], row["segmentation"], strict=True)
    ]


def _target(target: Mapping[str, Any], height_px: int) -> dict[str, Any]:
    kept = ("target_id", "texts", "kind", "answer", "instances", "absent", "correction", "incomplete", "turns")
    drawn = {name: _drawn(target[field], height_px) for name, field in (("d", "segmentation"), ("ignore", "ignore"))}
    return {**{name: target[name] for name in kept}, **drawn}


def _proposals(shown: Shown, image_index: int, proposer: str, height_px: int) -> dict[str, Any]:
    rows = rows_of(shown, f"masks/{proposer}", image_index)
    if isinstance(rows, str):
        return {"error": rows}
    (row,) = rows
    if row["status"] != OK:
        return {"error": row["error"] or row["status"]}
    masks = [
        {
            "number": number,
            "area": row["area"][number],
            "box": row["bbox"][number],
            "predicted_iou": _rounded(row["predicted_iou"][number]),
            "stability": _rounded(row["stability_score"][number]),
            "d": _drawn(counts, height_px),
        }
        for number, counts in enumerate(row["segmentation"][:MOST_MASKS])
    ]
    found: dict[str, Any] = {"total": len(row["segmentation"]), "masks": masks, "iou": {}}
    matched = rows_of(shown, f"match/{proposer}/targets", image_index)
    if isinstance(matched, list):
        for match in matched:
            found["iou"][match["target_id"]] = [_rounded(value) for value in match["iou_valid"][:MOST_MASKS]]
    return found


def _answered(answers: Answers, targets: list[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
    """The run's answers to the questions of an image: target_id -> a list, one per text."""
    by_id = {target["target_id"]: target for target in targets}
    try:
        given = sorted(answers.of(list(by_id)), key=lambda row: row["text_index"])
    except (PredictionError, OSError) as error:
        return {"error": str(error)}
    found: dict[str, Any] = {}
    for row in given:
        target = by_id[row["target_id"]]
        answer = {name: row[name] for name in ("text_index", "rejected", "chosen", "answer")} | {"d": "", "iou": None}
        if answers.external:  # the numbers of another program's masks
            answer["chosen"] = None
        try:
            if row["segmentation"] is not None:
                rle.union([row["segmentation"]], *size)  # of this image's size
                answer["d"] = outline(row["segmentation"], size[0])
            answer["iou"] = _rounded(answer_iou(target["segmentation"], target["ignore"], row["segmentation"]))
        except RleError as error:
            answer["error"] = str(error)
        found.setdefault(row["target_id"], []).append(answer)
    return {"answers": found}


def _drawn(counts: str | None, height_px: int) -> str:
    return outline(counts, height_px) if counts else ""


def _rounded(value: float) -> float:
    return round(float(value), 4)
