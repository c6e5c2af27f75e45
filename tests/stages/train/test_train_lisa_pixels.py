from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from torch.nn import functional as F

from stages.proposers.sam.proposals import reduced
from stages.train.lisa import decoder as lisa
from stages.train.lisa.decoder import encoded_size, mask_losses, postprocess_masks
from stages.transforms import longest_side


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 3), st.integers(0, 99))
def test_postprocessing_is_sams(height: int, width: int, masks: int, seed: int) -> None:
    small = object.__new__(Sam)
    torch.nn.Module.__init__(small)
    small.image_encoder = torch.nn.Identity()
    small.image_encoder.img_size = 128  # the only thing that the method asks of its encoder
    logits = torch.randn(masks, 32, 32, generator=torch.Generator().manual_seed(seed))
    resized = longest_side((height, width), 128)
    expected = small.postprocess_masks(logits[:, None], resized, (height, width))[:, 0]
    torch.testing.assert_close(postprocess_masks(logits, 128, resized, (height, width)), expected, atol=2e-6, rtol=0)
    half = postprocess_masks(logits.bfloat16(), 128, resized, (height, width))
    assert half.dtype == torch.float32
    assert torch.equal(half, postprocess_masks(logits.bfloat16().float(), 128, resized, (height, width)))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 260), st.integers(1, 260), st.sampled_from([0, 33, 100, 128]))
def test_the_size_in_the_square_is_that_of_stage_masks(height: int, width: int, max_side: int) -> None:
    seen = reduced(np.zeros((height, width, 3), np.uint8), max_side)
    assert encoded_size((height, width), max_side, 64) == longest_side(seen.shape[:2], 64)


def loop(logits: np.ndarray, truth: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    """BCE and Dice of one mask, pixel by pixel in float64."""
    bce = both = inside = area = 0.0
    pixels = 0
    for place in np.ndindex(*logits.shape):
        if not counted[place]:
            continue
        probability = 1 / (1 + math.exp(-float(logits[place])))
        bce -= math.log(probability if truth[place] else 1 - probability)
        both += probability / 1000 * truth[place]
        inside += probability / 1000
        area += truth[place] / 1000
        pixels += 1
    return bce / max(pixels, 1), 1 - (2 * both + 1e-6) / (inside + area + 1e-6)


@pytest.mark.parametrize("ignore", ["background", "excluded"])
def test_losses_equal_a_loop_over_pixels(ignore: lisa.Ignore) -> None:
    random = torch.Generator().manual_seed(5)
    logits = [3 * torch.randn(n, h, w, generator=random) for n, h, w in ((2, 5, 7), (0, 4, 4), (1, 9, 3), (1, 6, 4))]
    targets = [torch.rand(values.shape, generator=random) > 0.6 for values in logits]
    ignored = [torch.rand(values.shape[1:], generator=random) > 0.7 for values in logits]
    ignored[2][:] = True  # nothing counts in this image
    ignored[3][:] = False
    bce, dice = [], []
    for predicted, target, unknown in zip(logits, targets, ignored, strict=True):
        counted = np.ones_like(unknown) if ignore == "background" else ~unknown.numpy()
        for one, wanted in zip(predicted, target, strict=True):
            values = loop(one.numpy(), (wanted & ~unknown).numpy(), counted)
            bce.append(values[0])
            dice.append(values[1])
    losses = mask_losses(logits, targets, ignored, ignore)
    assert losses["mask_bce_loss"].item() == pytest.approx(2.0 * sum(bce) / 4, rel=1e-5)
    assert losses["mask_dice_loss"].item() == pytest.approx(0.5 * sum(dice) / 4, rel=1e-4)


def test_losses_by_hand() -> None:
    logits = [torch.tensor([[[0.0, 0.0], [0.0, 0.0]]])]
    targets = [torch.tensor([[[True, False], [False, False]]])]
    none = [torch.zeros_like(targets[0][0])]
    losses = mask_losses(logits, targets, none, "background")
    assert losses["mask_bce_loss"].item() == pytest.approx(2 * math.log(2), rel=1e-6)
    dice = 1 - (2 * 0.0005 + 1e-6) / (0.002 + 0.001 + 1e-6)
    assert losses["mask_dice_loss"].item() == pytest.approx(0.5 * dice, rel=1e-5)
    weighted = mask_losses(logits, targets, none, "background", bce_weight=1.0, dice_weight=3.0)
    assert weighted["mask_bce_loss"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert weighted["mask_dice_loss"].item() == pytest.approx(3 * dice, rel=1e-5)


def test_losses_equal_the_released_ones_without_ignored_pixels() -> None:
    torch.manual_seed(6)
    logits = [torch.randn(n, 20, 30) for n in (2, 1)]
    targets = [torch.rand(values.shape) > 0.5 for values in logits]
    bce = dice = torch.zeros(())
    for predicted, target in zip(logits, targets, strict=True):
        truth = target.float()
        each = F.binary_cross_entropy_with_logits(predicted, truth, reduction="none").flatten(1, 2).mean(1)
        bce = bce + each.sum() / (len(target) + 1e-8) * len(target)
        inside, flat = predicted.sigmoid().flatten(1, 2), truth.flatten(1, 2)
        numerator = 2 * (inside / 1000 * flat).sum(-1)
        denominator = (inside / 1000).sum(-1) + (flat / 1000).sum(-1)
        dice = dice + (1 - (numerator + 1e-6) / (denominator + 1e-6)).sum() / (len(target) + 1e-8) * len(target)
    for ignore in ("background", "excluded"):
        losses = mask_losses(logits, targets, [torch.zeros_like(target[0]) for target in targets], ignore)
        torch.testing.assert_close(losses["mask_bce_loss"], 2.0 * bce / (3 + 1e-8))
        torch.testing.assert_close(losses["mask_dice_loss"], 0.5 * dice / (3 + 1e-8))


def test_excluded_pixels_may_be_anything_and_get_no_gradient() -> None:
    torch.manual_seed(8)
    ignored = torch.rand(6, 6) > 0.5
    target = torch.rand(2, 6, 6) > 0.5
    logits = torch.randn(2, 6, 6)
    found = []
    for change in (0.0, 50.0):
        changed = (logits + change * ignored).requires_grad_()
        losses = mask_losses([changed], [target ^ (ignored if change else ignored & False)], [ignored], "excluded")
        sum(losses.values()).backward()
        assert changed.grad is not None
        assert not changed.grad[:, ignored].any()
        assert changed.grad[:, ~ignored].all()
        found.append([value.item() for value in losses.values()])
    assert found[0] == found[1]


def test_losses_say_what_does_not_fit() -> None:
    one, two = torch.zeros(1, 4, 4), torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match="expected background or excluded"):
        mask_losses([one], [one > 0], [one[0] > 0], "left out")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, 4, 4\), \(1, 4, 4\), \(4, 4\): expected \[n, H, W\] twice"):
        mask_losses([two], [one > 0], [one[0] > 0], "excluded")
    with pytest.raises(ValueError, match=r"\(1, 4, 4\), \(1, 4, 4\), \(1, 4, 4\): expected"):
        mask_losses([one], [one > 0], [one > 0], "excluded")
