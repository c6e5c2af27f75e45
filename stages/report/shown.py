"""A question with all its pictures: as layers over one photograph for the page, and as flat PNG files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.cases import CANDIDATES, Case, Question
from stages.evaluate.metrics import Samples
from stages.photographs import GoneError
from stages.predictions import Meta, Prediction
from stages.report import overlays
from stages.report.choose import Key
from stages.report.page import Picture, Shown, data_uri
from stages.report.panels import Panel, answer_panel, masks_panel, proposals_panel, truth_panel
from store import Split
from store.format.schema import OK


def show(
    split: Split,
    question: Question,
    text_index: int,
    why: Sequence[str],
    systems: Mapping[str, Answers],
    top_k: int,
    pixels_of: Callable[[int], NDArray[np.uint8]],
) -> tuple[Shown, dict[str, bytes]]:
    """Draw a question: ground truth, proposals where the split has them, and each system's answer.

    Args:
        why: what it was chosen for.
        top_k: this many of the largest proposals are candidates.
        pixels_of: image_index -> RGB [H, W, 3]; raises GoneError where there is no picture.

    Returns:
        What the page shows, and the PNG files: name without suffix -> bytes.
    """
    size = overlays.shown_size(question.height_px, question.width_px)
    photograph, gone, below = _photograph(pixels_of, question.image_index, size)
    panels = {
        "truth": truth_panel(_case(split, question, text_index, "proposals", top_k), size, _instances(split, question))
    }
    if split.has("masks"):
        panels["proposals"] = _proposals(split, question, text_index, size, top_k)
    for name, answers in systems.items():
        key = (question.target_id, text_index)
        if key in answers.iou:
            case = _case(answers.split, question, text_index, answers.meta.setting, top_k)
            panels[name] = answer_panel(case, size, name, answers.predictions.get(key), _known(answers.iou[key]))
    shown = Shown(
        question.target_id,
        question.image_id,
        _text(question, text_index),
        why,
        photograph,
        gone,
        size,
        _note(question.height_px, question.width_px, size),
        [_picture(panel) for panel in panels.values()],
    )
    return shown, {name: overlays.flat_png(below, panel.layer) for name, panel in panels.items()}


def show_image(
    split: Split, image_index: int, top_k: int, pixels_of: Callable[[int], NDArray[np.uint8]]
) -> tuple[Shown, dict[str, bytes]]:
    """Draw an image without questions, with the masks of each proposer whose column is open. Like :func:`show`."""
    record = split[image_index]
    full = record.height_px, record.width_px
    size = overlays.shown_size(*full)
    photograph, gone, below = _photograph(pixels_of, image_index, size)
    panels: dict[str, Panel] = {}
    for proposer in split.proposers:
        (masks,) = split.of_proposer(proposer)[image_index].rows("masks")
        if masks["status"] == OK:
            panels[proposer] = masks_panel(proposer, masks["segmentation"], full, size, top_k)
        else:
            reason = f"failed: {masks['error'] or masks['status']}"
            panels[proposer] = Panel(f"Proposals of {proposer}", overlays.new_layer(size), [reason])
    pictures = [_picture(panel) for panel in panels.values()]
    shown = Shown(record.image_id, record.image_id, "", (), photograph, gone, size, _note(*full, size), pictures)
    return shown, {f"proposals of {name}": overlays.flat_png(below, panel.layer) for name, panel in panels.items()}


def _photograph(
    pixels_of: Callable[[int], NDArray[np.uint8]], image_index: int, size: tuple[int, int]
) -> tuple[str | None, str, NDArray[np.uint8]]:
    """The picture as data URI, or None and the reason why it is gone; and what masks are drawn on, uint8 [h, w, 3]."""
    try:
        pixels = pixels_of(image_index)
    except GoneError as error:
        return None, str(error), np.full((*size, 3), overlays.NO_PHOTOGRAPH, np.uint8)
    photograph = data_uri("jpeg", overlays.photograph_jpeg(pixels, size))
    return photograph, "", overlays.resize_photograph(pixels, size)


def _case(split: Split, question: Question, text_index: int, setting: str, top_k: int) -> Case:
    return Case(split, question, text_index, replace(CANDIDATES[setting], top_k=top_k))


def _proposals(split: Split, question: Question, text_index: int, size: tuple[int, int], top_k: int) -> Panel:
    (masks,) = split[question.image_index].rows("masks")
    if masks["status"] != OK:
        return Panel("Proposals", overlays.new_layer(size), [f"failed: {masks['error'] or masks['status']}"])
    return proposals_panel(_case(split, question, text_index, "proposals", top_k), size, len(masks["segmentation"]))


def _instances(split: Split, question: Question) -> list[str]:
    (row,) = split[question.image_index].rows("instances")
    return list(row["segmentation"] or [])


def _known(iou: float) -> float | None:
    """The IoU; None for NaN, which means that a protocol does not score the question."""
    return None if math.isnan(iou) else iou


def _text(question: Question, text_index: int) -> str:
    texts = question.target["texts"]
    return str(texts[text_index]) if texts else "(it has no text)"


def _note(height_px: int, width_px: int, size: tuple[int, int]) -> str:
    full = f"{width_px} x {height_px} px"
    if size == (height_px, width_px):
        return full
    change = "reduced" if size[0] < height_px else "enlarged"
    return f"{full}, {change} to {size[1]} x {size[0]}"


def _picture(panel: Panel) -> Picture:
    image = data_uri("png", overlays.layer_png(panel.layer))
    return Picture(panel.title, image, panel.alt, panel.facts, panel.iou, panel.answer, panel.nothing)


@dataclass(frozen=True)
class Answers:
    """A system's predictions of a split and their IoU, as the evaluation counts it.

    samples: in the order of ``iou``. split: with the proposer that it chose from.
    """

    meta: Meta
    predictions: Mapping[Key, Prediction]
    iou: Mapping[Key, float]
    samples: Samples
    missing: int
    split: Split
