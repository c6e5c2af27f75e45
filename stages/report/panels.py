"""The pictures of one question, side by side: ground truth, proposals, and what each system answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.evaluate.baselines import oracle_best_mask
from stages.evaluate.cases import Case
from stages.evaluate.measure import measure
from stages.predictions import Prediction
from stages.report import overlays
from stages.report.overlays import Layer
from store import rle
from store.outlines import colour_of
from store.stream.candidates import instance_of, number_of_instance


def truth_panel(case: Case, size: tuple[int, int], instances: Sequence[str]) -> Panel:
    """The target's mask, with its instances numbered, and the pixels that do not count.

    Args:
        size: of the picture, (h, w) px.
        instances: COCO RLE counts of all instances of the image.
    """
    target = case.question.target
    layer = overlays.new_layer(size)
    ignored = _shown(case, target["ignore"], size)
    overlays.hatch(layer, ignored)
    painted = _shown(case, target["segmentation"], size)
    numbers = list(target["instances"])
    regions = [_shown(case, instances[number], size) & painted for number in numbers]
    names = [_name(number_of_instance(number)) for number in numbers]
    overlays.draw_masks(layer, regions, [overlays.TRUTH] * len(regions), names)
    facts = [
        f"{_count(len(numbers), 'instance')}: {', '.join(names)}" if numbers else "nothing of the kind is in the image"
    ]
    if ignored.any():
        facts.append("striped pixels do not count")
    if target["answer"]:
        facts.append(f"explained: {target['answer']}")
    return Panel("Ground truth", layer, facts, nothing=not case.question.exists)


def proposals_panel(case: Case, size: tuple[int, int], total: int) -> Panel:
    """The candidates, each with its number in the table ``masks``. ``total``: proposals of the image."""
    offered = case.offered
    layer = _drawn(case, offered.index.tolist(), size)
    shown = len(offered.index)
    if not shown:
        return Panel("Proposals", layer, ["the image has no proposals"])
    facts = [
        _count(total, "proposal") if shown == total else f"the {shown} largest of {total} proposals, which are embedded"
    ]
    best = oracle_best_mask(case, 0)
    if best.chosen:
        facts.append(f"the best is {best.chosen[0]}: IoU {measure(case, best)['iou']:.3f}")
    elif case.question.exists:
        facts.append("none overlaps the ground truth")
    return Panel("Proposals", layer, facts)


def masks_panel(proposer: str, masks: Sequence[str], full: tuple[int, int], size: tuple[int, int], top_k: int) -> Panel:
    """The largest ``top_k`` proposals of an image without a question.

    Args:
        masks: COCO RLE counts, the largest first. full: size of the image, (h, w) px. size: of the picture.
    """
    layer, shown = overlays.new_layer(size), min(top_k, len(masks))
    regions = [overlays.resize_mask(rle.decode(counts, *full), size) for counts in masks[:top_k]]
    numbers = range(shown)
    overlays.draw_masks(layer, regions, [colour_of(number) for number in numbers], [_name(n) for n in numbers])
    fact = _count(len(masks), "proposal") if shown == len(masks) else f"the {shown} largest of {len(masks)} proposals"
    return Panel(f"Proposals of {proposer}", layer, [fact if masks else "the image has no proposals"])


def answer_panel(
    case: Case, size: tuple[int, int], system: str, prediction: Prediction | None, iou: float | None
) -> Panel:
    """What a system answered, the ground truth outlined in green. No prediction counts as a refusal."""
    layer = overlays.new_layer(size)
    if prediction is None:
        fact = "no prediction: counts as refused"
    elif prediction.rejected:
        fact = "refused: nothing of the kind is there"
    elif _is_union_of_chosen(case, prediction):
        chosen = sorted(
            prediction.chosen or (), key=lambda number: (instance_of(number) is not None, number)
        )  # largest first
        layer = _drawn(case, chosen, size)
        fact = f"chose {', '.join(_name(number) for number in chosen)}" if chosen else "chose nothing"
    elif prediction.segmentation is None:
        fact = "an empty mask"
    else:
        overlays.draw_masks(layer, [_shown(case, prediction.segmentation, size)], [overlays.ANSWER], [""])
        fact = "an empty mask" if prediction.is_empty else "a mask of its own"
    overlays.outline(layer, _shown(case, case.question.target["segmentation"], size), overlays.TRUTH)
    refused = prediction is None or bool(prediction.rejected)
    return Panel(system, layer, [fact], iou, prediction.answer if prediction else None, refused)


def _is_union_of_chosen(case: Case, prediction: Prediction) -> bool:
    """Whether the scored mask is the union of the chosen candidates; if not, drawing the choice would be wrong."""
    if prediction.chosen is None:
        return False
    question, counts = case.question, case.offered.by_number
    chosen = [counts[number] for number in prediction.chosen]
    scored = [] if prediction.segmentation is None else [prediction.segmentation]
    size = question.height_px, question.width_px
    return rle.union(chosen, *size) == rle.union(scored, *size)


def _drawn(case: Case, numbers: Sequence[int], size: tuple[int, int]) -> Layer:
    """Candidates by their numbers, in the order given."""
    counts, layer = case.offered.by_number, overlays.new_layer(size)
    masks = [_shown(case, counts[number], size) for number in numbers]
    overlays.draw_masks(layer, masks, [colour_of(number) for number in numbers], [_name(n) for n in numbers])
    return layer


def _shown(case: Case, counts: str, size: tuple[int, int]) -> overlays.Mask:
    question = case.question
    return overlays.resize_mask(rle.decode(counts, question.height_px, question.width_px), size)


def _name(number: int) -> str:
    instance = instance_of(number)
    return str(number) if instance is None else f"g{instance}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Panel:
    """A picture of a question.

    layer: masks, to be laid over the photograph. facts: lines below it. iou: of an answer with the ground truth, else None.
    answer: a system's text. nothing: the image shows nothing of the kind, or the system refused.
    """

    title: str
    layer: Layer
    facts: Sequence[str]
    iou: float | None = None
    answer: str | None = None
    nothing: bool = False

    @property
    def alt(self) -> str:
        """Alternative text: the picture described in words."""
        score = "" if self.iou is None else f", IoU {self.iou:.3f}"
        return f"{self.title}{score}: {'; '.join(self.facts)}"
