"""Regions of annotations: the frame they were drawn in, and the one form in which a mask is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from written_coco import HEIGHT, WIDTH, annotation, category, image, run_list, run_string, square, write, write_picture

from stages.datasets.coco import annotate, list_sources
from stages.datasets.segments import read_counts, read_segmentation
from stages.images import ImageFailure
from store import rle
from store.read.pixels import oriented

CATS = [category(1, "cat")]


def box_of(x: int, y: int, side: int = 10) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(st.lists(st.sampled_from([0, 1, 5, 11, 12, 4.5, -3.2, 7.49, 30]), min_size=3, max_size=10), max_size=3),
)
def test_polygons_become_the_run_lengths_of_their_pixels(height: int, width: int, polygons: list[list[float]]) -> None:
    counts, dropped = read_counts(polygons, height, width)
    found = read_segmentation(polygons, height, width)
    assert (counts, dropped) == (rle.encode(found.mask), found.dropped)


def test_regions_are_turned_with_a_picture_whose_exif_explains_the_size(tmp_path: Path) -> None:
    """The file has the size before EXIF orientation 6; a point at x = 45 fits into that frame alone."""
    write_picture(tmp_path / "train" / "a.jpg", HEIGHT, WIDTH, orientation=6)
    mask = box_of(38, 3)
    for segmentation in (square(38, 3), run_string(mask), run_list(mask)):
        write(tmp_path, [image(9, "a.jpg")], [annotation(1, 9, 1, segmentation)], CATS)
        source = list_sources(tmp_path, "train")[0]
        found = annotate(tmp_path, source, WIDTH, HEIGHT)
        assert np.array_equal(rle.decode(found.targets[0].segmentation, WIDTH, HEIGHT), oriented(mask, 6))
        assert found.notes == ("regions drawn before EXIF orientation 6, turned with the image",)


def test_regions_drawn_on_the_upright_picture_stay(tmp_path: Path) -> None:
    write_picture(tmp_path / "train" / "a.jpg", HEIGHT, WIDTH, orientation=6)
    write(tmp_path, [image(9, "a.jpg")], [annotation(1, 9, 1, square(3, 39))], CATS)
    source = list_sources(tmp_path, "train")[0]
    found = annotate(tmp_path, source, WIDTH, HEIGHT)
    assert rle.bbox(found.targets[0].segmentation, WIDTH) == (3, 39, 10, 10)
    assert found.notes == ()


def test_a_size_that_is_not_the_pictures_is_a_failure(tmp_path: Path) -> None:
    write_picture(tmp_path / "train" / "a.jpg", HEIGHT, WIDTH, orientation=6)
    write_picture(tmp_path / "train" / "b.jpg", WIDTH, HEIGHT)
    both = [annotation(1, 9, 1, square(3, 3)), annotation(2, 8, 1, square(3, 3))]
    write(tmp_path, [image(9, "a.jpg"), image(8, "b.jpg")], both, CATS)
    turned, plain = list_sources(tmp_path, "train")
    with pytest.raises(
        ImageFailure, match=r"train.json: the JSON says 50 x 40 px \(width, height\), .* fit both frames"
    ):
        annotate(tmp_path, turned, WIDTH, HEIGHT)
    with pytest.raises(ImageFailure, match="no EXIF orientation of the image explains the swap"):
        annotate(tmp_path, plain, WIDTH, HEIGHT)
    with pytest.raises(ImageFailure, match="the JSON says 50 x 40 px .* factor 2"):
        annotate(tmp_path, plain, 2 * HEIGHT, 2 * WIDTH)


def test_a_picture_that_another_data_set_holds_tells_the_orientation(tmp_path: Path) -> None:
    held = write_picture(tmp_path / "held" / "a.jpg", HEIGHT, WIDTH, orientation=8)
    write(tmp_path / "set", [image(9, "a.jpg")], [annotation(1, 9, 1, square(38, 3))], CATS)
    source = list_sources(tmp_path / "set", "train")[0]
    found = annotate(tmp_path / "set", source, WIDTH, HEIGHT, picture=held)
    assert np.array_equal(rle.decode(found.targets[0].segmentation, WIDTH, HEIGHT), oriented(box_of(38, 3), 8))


def test_of_a_picture_without_annotations_the_size_does_not_matter(tmp_path: Path) -> None:
    write(tmp_path, [image(9, "a.jpg")], [], CATS)
    assert annotate(tmp_path, list_sources(tmp_path, "train")[0], WIDTH, HEIGHT).targets == ()


def test_boxes_are_turned_too(tmp_path: Path) -> None:
    write_picture(tmp_path / "train" / "a.jpg", HEIGHT, WIDTH, orientation=6)
    write(tmp_path, [image(9, "a.jpg")], [annotation(1, 9, 1, [], bbox=[38, 3, 10, 10])], CATS)
    found = annotate(tmp_path, list_sources(tmp_path, "train")[0], WIDTH, HEIGHT)
    assert np.array_equal(rle.decode(found.targets[0].segmentation, WIDTH, HEIGHT), oriented(box_of(38, 3), 6))
    write(tmp_path, [image(9, "a.jpg")], [annotation(5, 9, 1, [], bbox=[38])], CATS)
    with pytest.raises(ImageFailure, match="train.json: annotation 5: 'bbox' is"):
        annotate(tmp_path, list_sources(tmp_path, "train")[0], WIDTH, HEIGHT)
