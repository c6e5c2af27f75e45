"""Scores of a whole split against masks decoded one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factory import Known, write_images, write_table

from stages.evaluate import BASELINE_NAMES, Prediction, PredictionError, score, summarise
from stages.evaluate.cases import questions
from stages.evaluate.metrics import METRICS, value
from store import FailedImageError, Split, open_split, rle

SIZE = (4, 6)


def every(known: Known, texts: int = 1) -> list[Prediction]:
    """A prediction for every text: random masks, some empty, some rejected."""
    rng = np.random.default_rng(3)
    found = []
    for target in (target for targets in known.targets for target in targets):
        for text in range(texts):
            kind = rng.integers(5)
            mask = rle.encode(rng.random(SIZE) < 0.4) if kind > 1 else None
            found.append(Prediction(target["target_id"], text, mask, rejected=kind == 0))
    return found


def by_hand(known: Known, predictions: list[Prediction]) -> dict[str, float]:
    targets = {target["target_id"]: target for targets in known.targets for target in targets}
    ious, inter, union, no, yes = [], 0, 0, [], []
    for prediction in predictions:
        target = targets[prediction.target_id]
        valid = ~rle.decode(target["ignore"], *SIZE)
        truth = rle.decode(target["segmentation"], *SIZE) & valid
        guess = np.zeros(SIZE, bool) if prediction.segmentation is None else rle.decode(prediction.segmentation, *SIZE)
        guess &= valid
        both, either = int((truth & guess).sum()), int((truth | guess).sum())
        ious.append(both / either if either else 1.0)
        inter, union = inter + both, union + either
        (yes if target["instances"] else no).append(prediction.segmentation is None)
    n_acc, t_acc = np.mean(no), 1 - np.mean(yes)
    see = (sum(no) + len(yes) - sum(yes)) / len(predictions)
    said = np.mean([prediction.rejected for prediction in predictions])
    figures = {"miou_per_sample": np.mean(ious), "ciou": inter / union, "n_acc": n_acc, "t_acc": t_acc, "see": see}
    return {**figures, "said_rej": said}


@pytest.mark.parametrize("texts", [1, 2])
def test_scores_equal_decoded_masks(split: Split, known: Known, texts: int) -> None:
    predictions = every(known, texts)
    scores = score(split, reversed(predictions), system="mine")
    (samples,) = scores.systems.values()
    assert len(samples) == len(predictions)
    assert samples.image_index.tolist() == [int(found.target_id.split("/")[0][5:]) for found in predictions]
    assert (scores.missing, scores.skipped) == (0, {})
    for name, expected in by_hand(known, predictions).items():
        assert value(METRICS[name](samples)) == pytest.approx(expected, abs=1e-12), name
    assert math.isnan(value(METRICS["f1"](samples)))


def test_choices_are_scored_among_the_candidates_of_the_setting(split: Split, known: Known) -> None:
    ids = {question.target_id: question for question in questions(split)}
    answers = []
    for name, question in ids.items():
        own = tuple(-1 - j for j in question.target["instances"])
        answers.append(Prediction(name, 0, question.target["segmentation"], not own, own))
    found = score(split, answers, setting="proposals+gt").systems["predictions"]
    assert value(METRICS["miou_per_sample"](found)) == 1
    assert value(METRICS["precision"](found)) == 1
    assert value(METRICS["see"](found)) == 1
    assert np.isnan(found.recall[~found.exists]).all()
    with pytest.raises(PredictionError, match=r"chose -1, which is not among the \d+ candidates of 'image"):
        score(split, answers, setting="proposals")


def test_top_k_bounds_the_candidates(split: Split, known: Known) -> None:
    image = next(k for k, masks in enumerate(known.masks) if len(masks) > 3)
    answers = [
        Prediction(question.target_id, 0, None, False, (3,) if question.image_index == image else ())
        for question in questions(split)
    ]
    score(split, answers, top_k=4)
    with pytest.raises(PredictionError, match="chose 3, which is not among the 3 candidates"):
        score(split, answers, top_k=3)


def test_missing_predictions(split: Split, known: Known) -> None:
    predictions = every(known)
    kept = predictions[:2] + predictions[5:]
    gone = [prediction.target_id for prediction in predictions[2:5]]
    with pytest.raises(
        PredictionError, match=rf"^3 of {len(predictions)} predictions are missing, first {gone[0]} \(text 0\)"
    ):
        score(split, kept)
    found = score(split, kept, missing="empty")
    assert found.missing == 3
    filled = [replace(p, segmentation=None, rejected=True) if p.target_id in gone else p for p in predictions]
    whole = score(split, filled)
    np.testing.assert_array_equal(found.systems["predictions"].iou, whole.systems["predictions"].iou)
    np.testing.assert_array_equal(found.systems["predictions"].rejected, whole.systems["predictions"].rejected)


def test_a_second_text_asks_for_all_of_them(split: Split, known: Known) -> None:
    predictions = every(known, texts=2)
    with pytest.raises(PredictionError, match=r"^1 of \d+ predictions are missing, first image0/0 \(text 0\)"):
        score(split, predictions[1:])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (
            lambda p: replace(p, target_id="image0/77"),
            "1 predictions are for no question of the split, first target 'image0/77'",
        ),
        (lambda p: replace(p, text_index=2), "no question of the split, first target 'image0/0', text 2"),
        (
            lambda p: replace(p, segmentation=rle.encode(np.ones((4, 5), bool)), rejected=False),
            "image0/0: segmentation: .* 4 x 6 px",
        ),
        (lambda p: replace(p, segmentation="a b", rejected=False), "image0/0: segmentation: counts have ' '"),
    ],
)
def test_predictions_that_do_not_fit(split: Split, known: Known, wrong: object, why: str) -> None:
    first, *rest = every(known)
    with pytest.raises(PredictionError, match=why):
        score(split, [wrong(first), *rest], missing="empty")  # type: ignore[operator]


def test_two_predictions_for_a_question(split: Split, known: Known) -> None:
    predictions = every(known)
    with pytest.raises(PredictionError, match="two predictions for target 'image0/0', text 0"):
        score(split, [*predictions, predictions[0]])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"missing": "skip"}, "missing: found 'skip', expected error, empty"),
        ({"setting": "gt"}, "setting: found 'gt', expected proposals, proposals"),
        ({"baselines": ["Rand51"]}, "baselines: found 'Rand51', expected Rand50"),
        ({"system": "largest mask", "baselines": ["largest mask"]}, "the name of a baseline"),
    ],
)
def test_unknown_options(split: Split, known: Known, options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        score(split, every(known), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["proposals", "proposals+gt"])
def test_baselines_stand_in_the_order_they_must(split: Split, known: Known, setting: str) -> None:
    found = score(split, every(known), setting=setting, baselines=BASELINE_NAMES).systems
    assert tuple(found) == ("predictions", *BASELINE_NAMES)
    miou = {name: value(METRICS["miou_per_sample"](samples)) for name, samples in found.items()}
    assert miou["oracle best mask"] <= miou["oracle union (greedy)"] <= miou["upper bound of any union"] <= 1
    assert (found["oracle best mask"].iou <= found["oracle union (greedy)"].iou).all()
    assert (found["oracle union (greedy)"].iou <= found["upper bound of any union"].iou + 1e-12).all()
    best = found["oracle best mask"].iou
    assert (best[found["largest mask"].exists] >= found["largest mask"].iou[found["largest mask"].exists]).all()
    f1 = {
        name: value(METRICS["f1"](samples)) for name, samples in found.items() if not name.startswith(("pred", "upper"))
    }
    assert max(f1, key=lambda name: f1[name]) == "oracle selector"
    assert f1["always reject"] == 0
    assert value(METRICS["n_acc"](found["always reject"])) == 1
    assert value(METRICS["t_acc"](found["always reject"])) == 0
    if setting == "proposals+gt":
        assert miou["oracle union (greedy)"] == 1
    again = score(split, every(known), setting=setting, baselines=BASELINE_NAMES).systems
    for name, samples in found.items():
        np.testing.assert_array_equal(again[name].iou, samples.iou)
    other = score(split, every(known), setting=setting, baselines=BASELINE_NAMES, seed=1).systems
    assert not np.array_equal(other["Rand50 (one draw)"].iou, found["Rand50 (one draw)"].iou)
    assert np.isnan(found["Rand50 (analytic)"].iou).all()
    assert {"all", "short", "long", "existing", "empty"} == set(summarise(found, 20, 0))


def test_only_tables_of_targets_are_needed(known: Known) -> None:
    lean = open_split(known.store, "d", "val", columns=["targets"])
    assert len(score(lean, every(known)).systems["predictions"]) == len(every(known))


def test_images_that_failed(tmp_path: Path) -> None:
    """One without targets is left out and named; one whose masks failed has questions and no candidates."""
    mask = rle.encode(np.arange(24).reshape(SIZE) < 6)
    empty = rle.encode(np.zeros(SIZE, bool))
    images = write_images(tmp_path, 3, failed={1: "truncated"})
    fields = {"texts": ["?"], "is_sentence": True, "kind": "t", "answer": None, "segmentation": mask, "ignore": empty}
    targets = [[{"target_id": f"{k}", "image_index": k, "instances": [0], **fields}] for k in range(3)]
    targets[1] = []

    def rows(bad: set[int], **fields: object) -> list[list[dict[str, object]]]:
        status = [("failed", "too large") if k in bad else ("ok", None) for k in range(3)]
        blank = {name: [] for name in fields}
        return [
            [{"image_index": k, "status": state, "error": why, **(blank if why else fields)}]
            for k, (state, why) in enumerate(status)
        ]

    box = {"segmentation": [mask], "bbox": [[0, 0, 6, 1]], "area": [6]}
    more = {"predicted_iou": [1.0], "stability_score": [1.0], "point_coords": [[0.0, 0.0]], "crop_box": [[0, 0, 6, 4]]}
    made = {"images": images}
    above = {"images": images}
    write_table(tmp_path, "d/targets/val", targets, above, failed={1: "truncated"})
    made["instances"] = write_table(
        tmp_path, "d/instances/val", rows({1}, **box, label=["target"]), above, failed={1: "x"}
    )
    made["masks/sam"] = write_table(
        tmp_path, "d/masks/sam/val", rows({1, 2}, **box, **more), above, failed={1: "x", 2: "y"}
    )
    both = {"masks/sam": made["masks/sam"], "instances": made["instances"]}
    pairs = rows({1, 2}, iou=[[1.0]], iop=[[1.0]])
    write_table(tmp_path, "d/match/sam/instances/val", pairs, both, failed={1: "x", 2: "y"})
    lists = {name: [1.0] for name in ("iou", "iop", "iou_valid", "iop_valid")}
    matched = [[{"target_id": "0", "image_index": 0, **lists}], [], []]
    write_table(
        tmp_path, "d/match/sam/targets/val", matched, {"masks/sam": made["masks/sam"]}, failed={1: "x", 2: "too large"}
    )
    split = open_split(tmp_path, "d", "val")
    (first,), (last,) = split[0].targets, split[2].targets
    assert first.items() >= lists.items()
    assert last["texts"] == ["?"]
    assert not last.keys() & lists.keys()
    assert split[2].rows("masks")[0]["error"] == "too large"
    for read in (
        lambda: split[1].targets,
        lambda: split[2].rows("match/sam/targets"),
        lambda: split.batch([0, 2], ["masks"]),
    ):
        with pytest.raises(FailedImageError):
            read()
    answers = [Prediction("0", 0, mask, False, (0,)), Prediction("2", 0, mask, False, ())]
    scores = score(split, answers, baselines=["oracle selector", "oracle best mask"])
    assert list(scores.skipped) == ["image1"]
    assert "truncated" in scores.skipped["image1"]
    assert scores.systems["predictions"].iou.tolist() == [1, 1]
    assert scores.systems["predictions"].f1.tolist() == [1, 0]
    assert scores.systems["oracle selector"].f1.tolist() == [1, 0]
    assert scores.systems["oracle best mask"].iou.tolist() == [1, 0]
