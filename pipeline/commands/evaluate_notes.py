"""What the report of ``evaluate`` says above its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stages.evaluate.gsva import PROTOCOL as GSVA
from stages.evaluate.gsva import counts_false_alarms
from stages.evaluate.protocols import PROTOCOLS
from stages.evaluate.score import BASELINE_NAMES, Scores
from stages.evaluate.tables import as_text
from stages.predictions import Meta, Prediction

WITHOUT_MASKS = ("always reject",)
"""The baselines that choose nothing."""
SHOWN = 10
"""At most this many of the images that were left out are named."""


def of_protocol(name: str, dataset: str, data_format: str, meta: Meta, scores: Scores) -> Iterator[str]:
    """How a protocol asks and scores, and how these predictions or this data set do not fit it."""
    protocol = PROTOCOLS[name]
    if name == GSVA:
        yield _about_gsva(dataset)
    else:
        texts = {"first": "first text", "every": "every text", None: "texts as answered"}[protocol.asks(data_format)]
        asked = ", ".join([texts, *([_dashed(protocol.mode)] if protocol.mode else [])])
        yield (
            f"- Protocol {name}, as {protocol.source}: {asked}. Frame: {protocol.frame}. Ignored pixels {protocol.ignore}. Empty "
            f"and absent: {protocol.empties}."
        )
        yield f"- Figures: {protocol.sums}."
        yield f"- Match with the original: {protocol.exact}."
    if not meta.run:
        yield (
            "- These predictions are external: the protocol fixes only how they are scored. What was asked, and how, is up to who "
            "made them."
        )
    elif protocol.mode and meta.mode != protocol.mode:
        yield f"- Answers are {_dashed(protocol.mode)} by the protocol; these are {_dashed(meta.mode)}."
    if data_format not in protocol.meant_for:
        yield (
            f"- The protocol is meant for data of the format {' or '.join(protocol.meant_for)}; {as_text(dataset)} is of the "
            f"format {data_format}."
        )
    if protocol.absent_by_annotation and scores.drawn_nowhere:
        yield (
            f"- {len(scores.drawn_nowhere)} targets without a pixel count as existing: their annotation does not say that they are "
            "absent."
        )


def of_answers(predictions: Sequence[Prediction], scores: Scores, threshold: int | None) -> Iterator[str]:
    """What is unusual about the answers."""
    if threshold is not None:
        yield f"- The masks of PNGs: grey values of at least {threshold}."
    if boxes := sum(prediction.is_box for prediction in predictions):
        yield f"- {boxes} of {len(predictions)} answers are boxes: each is scored as the filled box, against the target's mask."
    if scores.missing:
        yield f"- {scores.missing} of them had no prediction and count as rejected."
    if scores.aside:
        yield f"- {scores.aside} predictions for other texts than the first one of a target are not scored."


def of_images(
    unasked: Mapping[str, int], absent: set[str], without_masks: str, left_out: Mapping[str, str]
) -> Iterator[str]:
    """Which images and rows were left out."""
    if unasked:
        names = _some([as_text(name) for name in unasked])
        yield (
            f"- {sum(unasked.values())} predictions for images without questions, which failed or have no annotation, are not "
            f"scored: {names}."
        )
    yield from (f"- Left out: {as_text(name)}: {as_text(why)}" for name, why in list(left_out.items())[:SHOWN])
    if len(left_out) > SHOWN:
        yield f"- Left out: {len(left_out) - SHOWN} more images."
    if absent:
        yield f"- {len(absent)} images have no annotation: nothing is asked about them."
    if without_masks:
        names = ", ".join(name for name in BASELINE_NAMES if name not in WITHOUT_MASKS)
        yield f"- Without proposals there are no rows {names}, and no figures about the choice of masks: {as_text(without_masks)}"


def _about_gsva(dataset: str) -> str:
    alarms = "join" if counts_false_alarms(dataset) else "do not join (they do on gRefCOCO)"
    return (
        "- Scored as GSVA's released code does. An empty target is right when [REJ] is said, whatever the mask; a rejected target "
        f"that exists counts with its mask; false alarms {alarms} the unions of cIoU. GSVA also asks all sentences of an image at "
        "once, and its input holds the right answer up to each [SEG] or [REJ]; whether that was done is up to who made the "
        "predictions."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _dashed(mode: str) -> str:
    return mode.replace("_", "-")
