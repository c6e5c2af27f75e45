"""Pictures that are sent: sizes, outlines that are seen, digests that follow the pixels, files that are not what they were."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.images import ImageFailure
from stages.questions import pictures
from stages.questions.items import Scene
from stages.questions.pictures import crop, outlined, surroundings, whole
from store import rle
from store.errors import RleError
from tests.stages.questions.pictured import scene_of

HEIGHT, WIDTH = 120, 200
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[40:70, 90:130] = True
NOISE = 12
"""A JPEG of quality 90 changes a value by less than this where nothing has an edge."""


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def plain(colour: tuple[int, int, int], path: Path) -> Scene:
    return scene_of(np.full((HEIGHT, WIDTH, 3), colour, np.uint8), path)


@given(
    height=st.integers(1, 3000), width=st.integers(1, 3000), side_px=st.integers(32, 2000), data=st.data()
)  # a file is read only when a picture is loaded, and here none is
def test_sizes_keep_to_the_bound_and_to_the_shape(height: int, width: int, side_px: int, data: st.DataObject) -> None:
    scene = Scene("a", "g", "/nowhere", "0" * 64, height, width, ())
    found = whole(scene, side_px)
    scale = min(1, side_px / max(height, width))
    assert max(found.height_px, found.width_px) <= side_px
    assert abs(found.height_px - max(1, height * scale)) <= 0.5
    assert abs(found.width_px - max(1, width * scale)) <= 0.5
    box = (data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)), 1, 1)
    left, top, w, h = surroundings(box, height, width)
    assert left <= box[0] < left + w
    assert top <= box[1] < top + h
    assert 0 <= left < left + w <= width
    assert 0 <= top < top + h <= height


def test_what_is_sent_has_the_size_that_was_said(tmp_path: Path) -> None:
    scene = plain((90, 120, 60), tmp_path / "a.png")
    counts = rle.encode(MASK)
    for picture in (whole(scene, 100), whole(scene, 4000), outlined(scene, counts, 77), crop(scene, counts, 300)):
        assert decoded(picture.load()).shape == (picture.height_px, picture.width_px, 3)
    assert (whole(scene, 4000).width_px, whole(scene, 4000).height_px) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), pictures.LIGHT, (255, 0, 0), (0, 90, 255), (10, 200, 30)]
)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (30, 40)])
def test_the_outline_is_seen_on_any_background_and_covers_nothing(
    colour: tuple[int, int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    scene = plain(colour, tmp_path / "a.png")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[50 : 50 + size[0], 100 : 100 + size[1]] = True
    drawn = decoded(outlined(scene, rle.encode(mask), 768).load())
    differs = np.abs(drawn - colour).max(axis=2) > 60
    rows, columns = np.nonzero(differs)
    assert len(rows) >= 4, "a line all around the object"
    assert (rows.min(), columns.min()) < (50, 100)
    assert (rows.max(), columns.max()) > (49 + size[0], 99 + size[1])
    assert rows.min() >= 47
    assert columns.max() <= 102 + size[1]
    assert not differs[mask][size[0] * size[1] // 2], "the object itself stays visible"


def test_holes_and_edges_are_outlined_too(tmp_path: Path) -> None:
    scene = plain((128, 128, 128), tmp_path / "a.png")
    ring = MASK.copy()
    ring[50:60, 100:120] = False
    drawn = decoded(outlined(scene, rle.encode(ring), 768).load())
    assert np.abs(drawn[50, 105] - pictures.LIGHT).max() < 60
    everything = decoded(outlined(scene, rle.encode(np.ones_like(MASK)), 768).load())
    assert np.abs(everything[0, 50] - pictures.LIGHT).max() < 60
    assert np.abs(everything[60, 100] - 128).max() < NOISE


def test_a_crop_is_the_answer_with_its_surroundings(tmp_path: Path) -> None:
    pixels = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    pixels[MASK] = (220, 40, 40)
    scene = scene_of(pixels, tmp_path / "a.png")
    found = crop(scene, rle.encode(MASK), 160)
    shown = decoded(found.load())
    assert (found.width_px, found.height_px) == (160, 140)  # 80 x 70: 40 x 30 with 20 around it, twice as large
    assert np.abs(shown[70, 80] - (220, 40, 40)).max() < NOISE
    assert np.abs(shown[10, 10] - 60).max() < NOISE
    assert (shown[:, :, 0] > 140).mean() == pytest.approx(40 * 30 / (80 * 70), abs=0.02)


def test_a_small_answer_is_enlarged_but_not_without_end(tmp_path: Path) -> None:
    mask = np.zeros_like(MASK)
    mask[60, 100] = True
    found = crop(plain((9, 9, 9), tmp_path / "a.png"), rle.encode(mask), 4000)
    side = (1 + 2 * pictures.LEAST_CONTEXT_PX) * pictures.MOST_ENLARGED
    assert (found.width_px, found.height_px) == (side, side)


def test_exif_turns_what_is_shown(tmp_path: Path) -> None:
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:, :40] = 250  # left half light; turned by a quarter it is the upper one
    turned = Image.Exif()
    turned[0x0112] = 6
    scene = replace(scene_of(stored, tmp_path / "a.png", exif=turned), height_px=80, width_px=40)
    shown = decoded(whole(scene, 768).load())
    assert shown.shape == (80, 40, 3)
    assert shown[:38].min() > 200
    assert shown[42:].max() < 50


def test_the_digest_follows_what_decides_the_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = plain((90, 120, 60), tmp_path / "a.png")
    other, counts = plain((90, 120, 61), tmp_path / "b.png"), rle.encode(MASK)
    moved = rle.encode(np.roll(MASK, 1, axis=1))
    made = [
        whole(scene, 100),
        whole(scene, 101),
        whole(other, 100),
        outlined(scene, counts, 100),
        outlined(scene, moved, 100),
        crop(scene, counts, 100),
        crop(scene, moved, 100),
        crop(scene, counts, 101),
    ]
    assert len({picture.digest for picture in made}) == len(made)
    elsewhere = replace(scene, path="/elsewhere.png", image_id="another", group="another")
    assert outlined(elsewhere, counts, 100).digest == outlined(scene, counts, 100).digest
    assert whole(scene, 4000).digest == whole(scene, 5000).digest, "the same pixels"
    monkeypatch.setattr(pictures, "VERSION", pictures.VERSION + 1)
    assert whole(scene, 100).digest != made[0].digest


def test_digests_stay_what_they_were() -> None:
    """With another digest everything that was paid for would be asked again."""
    scene, counts = Scene("a", "g", "/nowhere", "0" * 64, HEIGHT, WIDTH, ()), rle.encode(MASK)
    made = [whole(scene, 100), outlined(scene, counts, 100), crop(scene, counts, 100)]
    assert [picture.digest[:16] for picture in made] == ["1618a6fe998268c8", "a7a8e99893c110c4", "8c96fdb5c4468c5f"]


def test_masks_that_are_none_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    scene = plain((9, 9, 9), tmp_path / "a.png")
    for make in (outlined, crop):
        with pytest.raises(ValueError, match="no pixel"):
            make(scene, rle.encode(np.zeros_like(MASK)), 100)
        with pytest.raises(RleError, match="cover"):
            make(scene, rle.encode(MASK[:-1]), 100)


def test_another_file_than_was_indexed_is_not_sent(tmp_path: Path) -> None:
    scene = plain((9, 9, 9), tmp_path / "a.png")
    picture = whole(scene, 100)
    Image.new("RGB", (WIDTH, HEIGHT)).save(scene.path)
    with pytest.raises(ImageFailure, match=r"street/1.*run index again"):
        picture.load()
    Path(scene.path).unlink()
    with pytest.raises(FileNotFoundError):
        picture.load()


def test_sizes_that_do_not_fit_are_refused_before_decoding(tmp_path: Path) -> None:
    scene = plain((9, 9, 9), tmp_path / "a.png")
    with pytest.raises(ImageFailure, match="px allowed"):
        whole(replace(scene, height_px=HEIGHT - 1), 100).load()
    with pytest.raises(ImageFailure, match="run index again"):
        whole(replace(scene, height_px=WIDTH, width_px=HEIGHT), 100).load()
