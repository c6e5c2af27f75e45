from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from stages.train.llmseg import selector as llmseg
from stages.train.llmseg.selector import MaskSelector, Scores, select


def test_an_image_without_masks_counts_as_zero_in_the_mean() -> None:
    valid = torch.tensor([[True, True], [False, False]])
    similarity, iou = torch.tensor([[0.2, -0.3], [0.0, 0.0]]), torch.tensor([[0.9, 0.1], [0.0, 0.0]])
    scores = Scores(similarity, None, valid)
    (both,) = llmseg.selection_losses(scores, iou, iou, torch.tensor([0, 1])).values()
    (one,) = llmseg.selection_losses(
        Scores(similarity[:1], None, valid[:1]), iou[:1], iou[:1], torch.tensor([0])
    ).values()
    assert both.item() == pytest.approx(one.item() / 2)


def test_align_loss_by_hand() -> None:
    # tau 0.05: differences of 0.05 are factors of e
    similarity, iou = torch.tensor([[0.10, 0.05, 9.0]]), torch.tensor([[0.00, 0.05, 9.0]])
    valid = torch.tensor([[True, True, False]])
    big, small = math.e / (1 + math.e), 1 / (1 + math.e)
    expected = small * math.log(small / big) + big * math.log(big / small)
    assert llmseg.align_loss(similarity, iou, valid).item() == pytest.approx(expected, rel=1e-5)


def test_regression_loss_by_hand() -> None:
    predicted, iop = torch.tensor([[0.5, 0.0, 0.9]]), torch.tensor([[1.0, 0.25, 0.1]])
    valid = torch.tensor([[True, True, False]])
    expected = 50 * (1 * 0.25 + math.exp(-0.75) * 0.0625) / 2
    assert llmseg.regression_loss(predicted, iop, valid).item() == pytest.approx(expected, rel=1e-6)


def test_losses_equal_the_released_ones() -> None:
    torch.manual_seed(11)
    similarity, iop_predicted, iou, iop = (torch.rand(4, 9) for _ in range(4))
    valid = torch.ones(4, 9, dtype=torch.bool)
    align = [
        F.kl_div(F.softmax(s / 0.05, dim=0).log(), F.softmax(t / 0.05, dim=0), reduction="sum")
        for s, t in zip(similarity, iou, strict=True)
    ]
    regression = [
        (F.mse_loss(p, t, reduction="none") * torch.exp(t - 1.0)).mean() * 50.0
        for p, t in zip(iop_predicted, iop, strict=True)
    ]
    torch.testing.assert_close(llmseg.align_loss(similarity, iou, valid), torch.stack(align))
    torch.testing.assert_close(llmseg.regression_loss(iop_predicted, iop, valid), torch.stack(regression))
    # conversations in an image first, then images; image 1 has none and counts for nothing
    losses = llmseg.selection_losses(Scores(similarity, iop_predicted, valid), iou, iop, torch.tensor([0, 2, 0, 0]))
    expected = ((align[0] + align[2] + align[3]) / 3 + align[1]) / 2
    torch.testing.assert_close(losses["align_loss"], expected)
    expected = ((regression[0] + regression[2] + regression[3]) / 3 + regression[1]) / 2
    torch.testing.assert_close(losses["regression_loss"], expected)


def test_opposite_extremes_do_not_overflow() -> None:
    # softmax, then log, as released: log of a number that float16 and bfloat16 round to 0
    similarity = torch.tensor([[-1.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    valid = torch.ones(1, 2, dtype=torch.bool)
    loss = llmseg.align_loss(similarity, torch.tensor([[1.0, 0.0]], dtype=torch.float64), valid)
    loss.sum().backward()
    assert loss.item() == pytest.approx(40, rel=1e-4)
    assert similarity.grad is not None
    assert similarity.grad.isfinite().all()


CASES = {
    "top1": [[0, 0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    "iop": [[1, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    "top1_or_iop": [[1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    "top5_and_iop": [[0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
}


@pytest.mark.parametrize("strategy", CASES)
def test_strategies_on_hand_cases(strategy: str) -> None:
    similarity = torch.tensor([[0.1, 0.3, 0.9, 0.4, 0.5, 0.2, 0.6], [-0.5, -0.1, -0.1, 0, 0, 0, 0], [0.9] * 7])
    iop = torch.tensor([[0.9, 0.5, 0.1, 0.2, 0.3, 0.4, 0.51], [0.5, 0.1, 0.2, 0.9, 0.9, 0.9, 0.9], [0.9] * 7])
    valid = torch.arange(7) < torch.tensor([7, 3, 0])[:, None]
    assert select(Scores(similarity, iop, valid), strategy).int().tolist() == CASES[strategy]


def test_a_threshold_of_the_callers() -> None:
    scores = Scores(None, torch.tensor([[0.2, 0.6, 0.8]]), torch.ones(1, 3, dtype=torch.bool))
    assert select(scores, "iop", 0.7).tolist() == [[False, False, True]]


def test_choices_that_do_not_exist_say_what_does() -> None:
    scores = Scores(None, torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="'best'.*top1, iop, top1_or_iop, top5_and_iop"):
        select(scores, "best")
    with pytest.raises(ValueError, match="no similarity head"):
        select(scores, "top1_or_iop")
    with pytest.raises(ValueError, match="no IoP head"):
        select(Scores(torch.zeros(1, 3), None, scores.valid), "top5_and_iop")
    with pytest.raises(ValueError, match="expected both, iou or iop"):
        MaskSelector(4, 4, dim=8, num_heads=2, heads="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="never sees the question"):
        MaskSelector(4, 4, dim=8, num_heads=2, heads="iop", fusion=False)
    with pytest.raises(ValueError, match="3 does not divide dim 8"):
        MaskSelector(4, 4, dim=8, num_heads=3)
