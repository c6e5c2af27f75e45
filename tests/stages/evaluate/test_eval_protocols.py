"""Each protocol against its original, written out on decoded masks from its description: every edge case among random ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from factory import write_images, write_table
from numpy.typing import NDArray

from stages.evaluate import Prediction, PredictionError, as_markdown, score, summarise
from stages.evaluate.metrics import value
from stages.evaluate.protocol_figures import figures_of
from stages.evaluate.protocols import PROTOCOLS, usual_of
from store import Split, open_split, rle

H, W = 4, 6
Mask = NDArray[np.bool_]
EMPTY = np.zeros((H, W), bool)


@dataclass
class Asked:
    """One text, decoded. ref: of the original of R-RIS, an existing target with the false sentences after it."""

    target_id: str
    text_index: int
    truth: Mask
    ignore: Mask
    absent: bool
    ref: int
    guess: Mask
    rejected: bool | None


@dataclass
class World:
    """A split, and what is asked of it."""

    split: Split
    asked: list[Asked]

    def predictions(self, rejected_with_mask: bool) -> list[Prediction]:
        """The answers; where these are not both, a rejected one has no mask."""
        found = []
        for one in self.asked:
            mask = one.guess if rejected_with_mask or not one.rejected else EMPTY
            found.append(
                Prediction(one.target_id, one.text_index, rle.encode(mask) if mask.any() else None, one.rejected)
            )
        return found

    def rows(self, protocol: str) -> list[Asked]:
        """What the protocol asks, with the masks of :meth:`predictions`."""
        texts = PROTOCOLS[protocol].texts
        both = PROTOCOLS[protocol].rejected_with_mask
        return [
            Asked(**{**vars(one), "guess": one.guess if both or not one.rejected else EMPTY})
            for one in self.asked
            if texts != "first" or not one.text_index
        ]


def make_world(folder: Path, with_absent: bool, with_ignore: bool, seed: int = 0) -> World:
    """40 images: targets that are there, drawn on no pixel, wholly ignored and absent; masks that are right, empty and neither."""
    rng = np.random.default_rng(seed)
    images = write_images(folder, 40, 8, "val")
    rows: list[list[dict[str, Any]]] = []
    asked: list[Asked] = []
    ref = -1
    for image in range(40):
        rows.append([])
        for number in range(rng.integers(1, 6)):
            absent = bool(with_absent and number and rng.random() < 0.4)
            ref += not absent
            truth = EMPTY if absent or rng.random() < 0.1 else rng.random((H, W)) < rng.choice([0.1, 0.5, 0.9])
            ignore = (rng.random((H, W)) < 0.2) & ~truth if with_ignore else EMPTY
            name = f"image{image}/{number}"
            texts = [f"text {k}" for k in range(rng.integers(1, 4))]
            rows[-1].append(
                {
                    "target_id": name,
                    "image_index": image,
                    "instances": [0] if truth.any() else [],
                    "texts": texts,
                    "is_sentence": bool(rng.random() < 0.5),
                    "kind": "false_premise" if absent else "refer",
                    "segmentation": rle.encode(truth),
                    "ignore": rle.encode(ignore),
                    "absent": absent,
                }
            )
            for text in range(len(texts)):
                kind = rng.integers(5)
                guess = (EMPTY, truth, truth | ignore, rng.random((H, W)) < 0.4, ~truth)[kind]
                rejected = (None, True, False)[rng.integers(3)]
                asked.append(Asked(name, text, truth, ignore, absent, ref, guess, rejected))
    write_table(folder, "d/targets/val", rows, {"images": images}, 8)
    return World(open_split(folder, "d", "val", columns=["images", "targets"]), asked)


@pytest.fixture(scope="module")
def with_ignored(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("ignored"), with_absent=False, with_ignore=True)


@pytest.fixture(scope="module")
def with_absent(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("absent"), with_absent=True, with_ignore=False, seed=1)


def figures(world: World, protocol: str) -> list[float]:
    answers = world.predictions(PROTOCOLS[protocol].rejected_with_mask)
    texts = PROTOCOLS[protocol].texts
    samples = score(world.split, answers, protocol=protocol, texts=texts).systems["predictions"]
    assert len(samples) == len(world.rows(protocol))
    return [value(figure(samples)) for figure in figures_of(protocol).values()]


def labelled(one: Asked) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Prediction and target as LISA's validation has them: 1, 0, and 255 for what is ignored."""
    target = one.truth.astype(np.uint8)
    target[one.ignore] = 255
    return one.guess.astype(np.uint8), target


def histograms(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[float, float]:
    """Intersection and union of class 1 by counts of values: the prediction becomes 255 where the target is."""
    prediction = np.where(target == 255, target, prediction)
    same = np.where(prediction == target, prediction, 0)
    counts = [float((values == 1).sum()) for values in (same, prediction, target)]
    return counts[0], counts[1] + counts[2] - counts[0]


def lisa(rows: list[Asked], epsilon: float = 1e-5, resize: int | None = None) -> tuple[float, float]:
    ious, common, union = [], 0.0, 0.0
    for one in rows:
        pair = labelled(one)
        if resize:
            pair = tuple(cv2.resize(part, (resize, resize), interpolation=cv2.INTER_NEAREST) for part in pair)  # type: ignore[assignment]
        i, u = histograms(*pair)
        ious.append(i / (u + epsilon) + (u == 0))
        common, union = common + i, union + u
    return float(np.mean(ious)), common / (union + 1e-10)


def test_lisa(with_ignored: World) -> None:
    assert figures(with_ignored, "lisa") == pytest.approx(lisa(with_ignored.rows("lisa")), abs=1e-5)


def test_per_text_is_the_same_of_every_text(with_ignored: World) -> None:
    found = figures(with_ignored, "per_text")
    assert found == pytest.approx(lisa(with_ignored.rows("per_text")), abs=1e-5)
    assert found != pytest.approx(figures(with_ignored, "lisa"), abs=1e-3)
    assert figures(with_ignored, "llmseg40k") == found


def test_llmseg(with_ignored: World) -> None:
    rows = with_ignored.rows("llmseg")
    want = (*lisa(rows, 1e-8), lisa(rows, 1e-8, resize=1024)[1])
    assert figures(with_ignored, "llmseg") == pytest.approx(want, abs=1e-7)


def test_hub(with_ignored: World) -> None:
    ious = []
    for one in with_ignored.rows("hub"):
        target = one.truth | one.ignore  # what the copies hold
        union = (one.guess | target).sum()
        ious.append((one.guess & target).sum() / union if union else 0)
    assert figures(with_ignored, "hub") == pytest.approx([np.mean(ious)])


def test_refcoco(with_ignored: World) -> None:
    """LAVT's test: 0/0 is 0. Ignored pixels, which refCOCO has not, leave both."""
    ious, common, union = [], 0, 0
    for one in with_ignored.rows("refcoco"):
        truth, guess = one.truth & ~one.ignore, one.guess & ~one.ignore
        i, u = int((truth & guess).sum()), int((truth | guess).sum())
        ious.append(0.0 if u == 0 else i / u)
        common, union = common + i, union + u
    above = [np.mean([iou >= threshold for iou in ious]) for threshold in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert figures(with_ignored, "refcoco") == pytest.approx([common / union, np.mean(ious), *above])


def test_gres(with_absent: World) -> None:
    """ReLA: by the head that says no target; of no answer in words an empty mask says it."""
    total, common, union, above = 0.0, 0, 0, np.zeros(3)
    tp = tn = fp = fn = 0
    for one in with_absent.rows("gres"):
        said = not one.guess.any() if one.rejected is None else one.rejected
        i, u = int((one.truth & one.guess).sum()), int((one.truth | one.guess).sum())
        if one.absent:
            tp, fn = tp + said, fn + (not said)
            total += said
            union += 0 if said else u
        else:
            fp, tn = fp + said, tn + (not said)
            i = 0 if said else i
            iou = 0.0 if u == 0 else i / u
            total, common, union = total + iou, common + i, union + u
            above += [iou >= threshold for threshold in (0.7, 0.8, 0.9)]
    count = len(with_absent.rows("gres"))
    want = [total / count, common / union, tp / (tp + fn), tn / (tn + fp), *(above / (tn + fp))]
    assert figures(with_absent, "gres") == pytest.approx(want)


def test_gres_goes_by_the_annotation_and_not_by_the_mask(with_absent: World) -> None:
    nowhere = {one.target_id for one in with_absent.asked if not one.absent and not one.truth.any()}
    assert nowhere
    answers = with_absent.predictions(True)
    found = score(with_absent.split, answers, protocol="gres", texts="every")
    assert found.drawn_nowhere == nowhere
    exists = found.systems["predictions"].protocol_exists
    assert exists.tolist() == [float(not one.absent) for one in with_absent.asked]
    assert not found.systems["predictions"].exists.all()


def test_sesame(with_absent: World) -> None:
    """A target that is absent is zeros; an answer says so by zeros or by no [SEG]."""
    common, union, right = 0, 0, 0
    for one in with_absent.rows("sesame"):
        right += one.guess.any() == (not one.absent)
        common, union = common + (one.truth & one.guess).sum(), union + (one.truth | one.guess).sum()
    count = len(with_absent.rows("sesame"))
    assert figures(with_absent, "sesame") == pytest.approx([right / count, common / (union + 1e-10)])


def test_of_sesame_ignored_pixels_are_background(with_ignored: World) -> None:
    rows = with_ignored.rows("sesame")
    common = sum((one.truth & one.guess).sum() for one in rows)
    union = sum((one.truth | one.guess).sum() for one in rows)
    assert figures(with_ignored, "sesame")[1] == pytest.approx(common / union)


def test_rris(with_absent: World) -> None:
    """RefSegformer's validate, a ref at a time; where it divides by 0 the ref is left out, an IoU of 0/0 is 0."""
    refs: dict[int, list[Asked]] = {}
    for one in with_absent.rows("rris"):
        refs.setdefault(one.ref, []).append(one)
    miou, r, robust, all_i, all_u = [], [], [], 0, 0
    for own in refs.values():
        i = u = 0
        ious = []
        for one in (one for one in own if not one.absent):
            common, union = int((one.truth & one.guess).sum()), int((one.truth | one.guess).sum())
            i, u = i + common, u + union
            ious.append(common / union if union else 0.0)
        miou.append(np.mean(ious))
        all_i, all_u = all_i + i, all_u + u
        alarms = [int(one.guess.sum()) for one in own if one.absent]
        if alarms:
            r.append(np.mean([alarm == 0 for alarm in alarms]))
        u += sum(alarms)
        if u:
            robust.append(i / u)
    want = [np.mean(miou), all_i / all_u, np.mean(r), np.mean(robust)]
    assert figures(with_absent, "rris") == pytest.approx(want)


@pytest.mark.parametrize("protocol", [name for name, one in PROTOCOLS.items() if not one.rejected_with_mask])
def test_only_two_protocols_take_what_is_rejected_and_has_a_mask(with_absent: World, protocol: str) -> None:
    with pytest.raises(PredictionError, match="it is rejected, but has a mask"):
        score(with_absent.split, with_absent.predictions(True), protocol=protocol, texts=PROTOCOLS[protocol].texts)


def test_which_texts_are_asked(with_absent: World) -> None:
    answers = with_absent.predictions(False)
    firsts = [one for one in answers if not one.text_index]
    found = score(with_absent.split, answers, texts="first")
    assert found.aside == len(answers) - len(firsts)
    assert [text for _, text in found.asked] == [0] * len(firsts)
    with pytest.raises(PredictionError, match=r"predictions are missing.*; every text of a target is asked"):
        score(with_absent.split, firsts, texts="every")
    assert not score(with_absent.split, answers, texts="every").aside
    with pytest.raises(ValueError, match="texts: found 'all', expected first, every"):
        score(with_absent.split, answers, texts="all")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocol_prints_its_figures_alone(with_absent: World, protocol: str) -> None:
    answers = with_absent.predictions(False)
    if protocol == "gsva":
        answers = [Prediction(one.target_id, one.text_index, None, bool(one.rejected)) for one in answers]
    found = score(with_absent.split, answers, protocol=protocol, texts=PROTOCOLS[protocol].texts)
    results = summarise(found.systems, 20, 0, protocol)
    assert list(results["all"]["predictions"]) == list(figures_of(protocol))
    assert f"### Protocol {protocol}, as {PROTOCOLS[protocol].source} computes it" in as_markdown(results)
    assert not math.isnan(results["all"]["predictions"][next(iter(figures_of(protocol)))].low)


def test_groups_that_are_all_of_it_are_not_printed_again(with_ignored: World) -> None:
    found = score(with_ignored.split, with_ignored.predictions(False), protocol="refcoco", texts="every").systems
    assert list(summarise(found, 20, 0, "refcoco")) == ["all", "short", "long", "existing", "empty"]
    short = {"a": found["predictions"].where(~found["predictions"].is_sentence & found["predictions"].exists)}
    assert list(summarise(short, 20, 0, "refcoco")) == ["all"]
    assert list(summarise(short, 20, 0)) == ["all", "short", "existing"]


def test_what_a_format_is_usually_scored_by() -> None:
    found: dict[str, str | None] = {name: usual_of(name) for name in ("refer", "grefer", "reasonseg", "questions")}
    assert found == {"refer": "refcoco", "grefer": "gres", "reasonseg": None, "questions": None}
    asks: Callable[[str], Any] = PROTOCOLS["lisa"].asks
    assert [asks(name) for name in ("reasonseg", "refer", "grefer")] == ["first", "every", "every"]
