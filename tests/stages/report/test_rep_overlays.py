"""Layers: what is drawn where, and that a layer over the photograph is the flat picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from stages.report import overlays
from store.outlines import colour_of


def decoded(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]]


def disc(size: tuple[int, int] = (120, 160), radius: int = 30) -> np.ndarray:
    rows, columns = np.indices(size)
    return (rows - size[0] // 2) ** 2 + (columns - size[1] // 2) ** 2 < radius**2


def drawn(*masks: np.ndarray, names: list[str]) -> np.ndarray:
    layer = overlays.new_layer(masks[0].shape)
    overlays.draw_masks(layer, list(masks), [colour_of(k) for k in range(len(masks))], names)
    return layer


@pytest.mark.parametrize(
    ("size", "shown"),
    [((1080, 1920), (360, 640)), ((480, 640), (480, 640)), ((48, 64), (192, 256)), ((1, 5000), (1, 640))],
)
def test_large_images_are_reduced_and_small_ones_enlarged(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert overlays.shown_size(*size) == shown


def test_a_mask_is_filled_outlined_and_nothing_else_is_touched() -> None:
    layer = drawn(disc(), names=[""])
    assert layer[60, 80, 3] == round(255 * overlays.FILL)
    assert (layer[~disc(radius=36)] == 0).all()
    edge = disc(radius=30) & ~disc(radius=28)
    assert (layer[edge][:, 3] == 255).mean() > 0.9


def test_a_number_stands_in_the_visible_part_of_its_mask() -> None:
    below = np.zeros((120, 160), bool)
    below[:, 20:] = True
    above = np.zeros((120, 160), bool)
    above[:, 60:] = True
    named, unnamed = (drawn(below, above, names=names) for names in (["17", "4"], ["", ""]))
    changed = (named != unnamed).any(axis=2)
    assert changed[:, 20:60].any()
    assert changed[:, 60:].any()
    assert not changed[:, :20].any()


@pytest.mark.parametrize("gray", [0, 127, 255])
def test_numbers_and_outlines_are_seen_on_any_background(gray: int) -> None:
    photograph = np.full((120, 160, 3), gray, np.uint8)
    flat = decoded(overlays.flat_png(photograph, drawn(disc(), names=["8"])))
    line = flat[disc(radius=31) & ~disc(radius=28)].astype(int)
    assert (np.abs(line - gray).max(axis=1) > 60).any()
    number = flat[50:70, 70:90].astype(int)
    assert number.max() - number.min() > 200


def test_the_layer_over_the_photograph_is_the_flat_picture() -> None:
    photograph = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    layer = drawn(disc(), disc(radius=12), names=["0", "1"])
    overlays.hatch(layer, ~disc(radius=45))
    over = decoded(overlays.layer_png(layer)).astype(float)
    alpha = over[:, :, 3:] / 255
    blended = photograph * (1 - alpha) + over[:, :, :3] * alpha
    assert np.abs(blended - decoded(overlays.flat_png(photograph, layer))).max() <= 2


def test_a_thin_mask_stays_visible_and_an_empty_one_empty() -> None:
    mask = np.zeros((3000, 3000), bool)
    assert not overlays.resize_mask(mask, (640, 640)).any()
    mask[1500] = True
    assert overlays.resize_mask(mask, (640, 640)).any(axis=0).all()
    overlays.draw_masks(overlays.new_layer((8, 8)), [np.zeros((8, 8), bool)], [(1, 2, 3)], ["0"])


def test_neighbouring_numbers_differ_in_colour() -> None:
    colours = np.array([colour_of(number) for number in range(100)], int)
    assert np.abs(np.diff(colours, axis=0)).max(axis=1).min() > 100
