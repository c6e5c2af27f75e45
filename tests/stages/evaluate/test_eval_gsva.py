"""Protocol ``gsva`` against ``eval_gres`` of GSVA's ``solver.py``, written out on decoded masks."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from factory import Known
from numpy.typing import NDArray

from stages.evaluate import BASELINE_NAMES, Prediction, PredictionError, score
from stages.evaluate.cases import Question
from stages.evaluate.gsva import counts_false_alarms, gsva_figures
from stages.evaluate.metrics import METRICS, value
from stages.evaluate.protocol_figures import figures_of
from store import Split, rle

SIZE = (4, 6)


def eval_gres(
    samples: list[tuple[NDArray[np.bool_], NDArray[np.bool_], bool]], is_grefcoco: bool
) -> tuple[float, float, float, float]:
    """Target, prediction and whether [REJ] was predicted -> gIoU, cIoU, N-acc and T-acc."""
    inter = union = 0.0
    g_iou, tp, tn, fp, fn = [], 0, 0, 0, 0
    for gt, pred, rejected in samples:
        inter_i, union_i = int((gt & pred).sum()), int((gt | pred).sum())
        if gt.sum() < 1.0:
            if rejected:
                tp += 1
                g_iou.append(1.0)
            else:
                fn += 1
                g_iou.append(0.0)
                if is_grefcoco:
                    union += union_i
        else:
            fp, tn = fp + rejected, tn + (not rejected)
            inter, union = inter + inter_i, union + union_i
            g_iou.append(inter_i / (union_i + 1e-8))
    return float(np.mean(g_iou)), inter / (union + 1e-10), tp / (tp + fn), tn / (tn + fp)


def answers_of(known: Known) -> list[Prediction]:
    """Each of the four: [REJ] said or not, with a mask or an empty one."""
    rng = np.random.default_rng(0)
    found = []
    for target in (target for targets in known.targets for target in targets):
        mask = rle.encode(rng.random(SIZE) < 0.5) if rng.random() < 0.6 else None
        found.append(Prediction(target["target_id"], 0, mask, bool(rng.random() < 0.5)))
    return found


@pytest.mark.parametrize("dataset", ["d", "gRefCOCO"])
def test_it_is_the_released_evaluation(
    split: Split, known: Known, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("stages.evaluate.protocol_rules")
    monkeypatch.setattr(module, "counts_false_alarms", lambda _: counts_false_alarms(dataset))
    answers = answers_of(known)
    targets = {target["target_id"]: target for targets in known.targets for target in targets}
    decoded = []
    for answer in answers:
        target = targets[answer.target_id]
        counts = ~rle.decode(target["ignore"], *SIZE)
        gt = rle.decode(target["segmentation"], *SIZE)
        pred = np.zeros(SIZE, bool) if answer.segmentation is None else rle.decode(answer.segmentation, *SIZE)
        decoded.append((gt & counts, pred & counts, bool(answer.rejected)))
    samples = score(split, answers, protocol="gsva").systems["predictions"]
    names = ("gsva_giou", "gsva_ciou", "gsva_n_acc", "gsva_t_acc")
    figures = figures_of("gsva")
    assert tuple(figures) == names
    found = [value(figure(samples)) for figure in figures.values()]
    assert found == pytest.approx(eval_gres(decoded, dataset == "gRefCOCO"), abs=1e-7)
    assert all(math.isnan(value(metric(samples))) for metric in METRICS.values())


def question(target: NDArray[np.bool_], ignore: NDArray[np.bool_] | None = None) -> Question:
    pixels = {
        "segmentation": rle.encode(target),
        "ignore": rle.encode(np.zeros(SIZE, bool) if ignore is None else ignore),
    }
    row = {"target_id": "a/0", "instances": [0] if target.any() else [], **pixels}
    return Question("a", 0, *SIZE, 0, row)


EMPTY, SIX, TWELVE = (np.arange(24).reshape(SIZE) < count for count in (0, 6, 12))


@pytest.mark.parametrize(
    ("target", "guess", "rejected", "false_alarms", "want"),
    [
        (SIX, TWELVE, True, True, (6, 12, 0.5)),  # a rejected target that exists still gets its mask
        (SIX, TWELVE, False, False, (6, 12, 0.5)),
        (SIX, None, True, False, (0, 6, 0)),
        (EMPTY, TWELVE, False, False, (0, 0, 0)),  # a false alarm outside gRefCOCO: in no sum
        (EMPTY, TWELVE, False, True, (0, 12, 0)),
        (EMPTY, TWELVE, True, True, (0, 0, 1)),  # said [REJ]: right, whatever the mask
        (EMPTY, None, False, True, (0, 0, 0)),  # an empty mask without [REJ] is wrong
        (EMPTY, None, True, True, (0, 0, 1)),
    ],
)
def test_every_case(
    target: NDArray[np.bool_],
    guess: NDArray[np.bool_] | None,
    rejected: bool,
    false_alarms: bool,
    want: tuple[float, float, float],
) -> None:
    answer = Prediction("a/0", 0, None if guess is None else rle.encode(guess), rejected)
    found = gsva_figures(question(target), answer, false_alarms)
    assert (found["protocol_intersection_px"], found["protocol_union_px"], found["protocol_iou"]) == want
    assert found["protocol_exists"] == target.any()
    assert found["protocol_rejected"] == rejected


def test_ignored_pixels_leave_both() -> None:
    answer = Prediction("a/0", 0, rle.encode(TWELVE), False)
    assert gsva_figures(question(SIX, TWELVE & ~SIX), answer, False)["protocol_iou"] == 1
    nothing_left = gsva_figures(question(SIX, TWELVE), answer, False)
    assert (nothing_left["protocol_exists"], nothing_left["protocol_union_px"], nothing_left["protocol_iou"]) == (
        1,
        0,
        0,
    )


def test_which_data_set_counts_false_alarms() -> None:
    assert all(counts_false_alarms(name) for name in ("grefcoco", "gRefCOCO", "g-ref_coco", "gRefCOCO UNC"))
    assert not any(counts_false_alarms(name) for name in ("refcoco", "refzom", "ReasonSeg", "demo"))


def test_what_was_said_must_be_known(split: Split, known: Known) -> None:
    first, *rest = answers_of(known)
    answers = [Prediction(first.target_id, 0, first.segmentation, None), *rest]
    with pytest.raises(PredictionError, match=r"image0/0: it is not known whether \[REJ\] was said.*key rejected"):
        score(split, answers, protocol="gsva")


def test_baselines_under_the_protocol(split: Split, known: Known) -> None:
    found = score(split, answers_of(known), protocol="gsva", baselines=BASELINE_NAMES).systems
    assert value(figures_of("gsva")["gsva_n_acc"](found["always reject"])) == 1
    assert value(figures_of("gsva")["gsva_t_acc"](found["always reject"])) == 0
    assert np.isnan(found["Rand50 (analytic)"].protocol_iou).all()
    assert np.isnan(found["upper bound of any union"].iou).all()


def test_an_unknown_protocol(split: Split, known: Known) -> None:
    with pytest.raises(ValueError, match="protocol: found 'gress', expected lisa, per_text, .*gres, gsva"):
        score(split, answers_of(known), protocol="gress")
