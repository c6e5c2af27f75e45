"""Foreign masks become records of the store, or an error that says what is wrong; pycocotools is the reference for RLE."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco

from stages.images import ImageFailure
from stages.imported.records import MAX_MASKS, checked, counts_of, require_storable, vectors_of
from store import rle
from store.errors import RleError

SIZE = (30, 40)


def disc(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A ring: a mask with a hole."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] / 2, columns - size[1] / 2)
    return (distance < size[0] * 0.4) & (distance > size[0] * 0.2)


def official(mask: np.ndarray) -> dict[str, Any]:
    return coco.encode(np.asfortranarray(mask, np.uint8))


def test_every_way_to_write_counts_gives_the_same() -> None:
    compressed = official(disc())
    uncompressed = {"size": list(SIZE), "counts": rle.to_runs(compressed["counts"].decode()).tolist()}
    split = [uncompressed["counts"][0], 0, 0, *uncompressed["counts"][1:]]
    ways = [compressed, {**compressed, "counts": compressed["counts"].decode()}, uncompressed]
    ways += [{"size": list(SIZE), "counts": split}, {"size": SIZE, "counts": compressed["counts"].decode()}]
    assert {counts_of(way, SIZE) for way in ways} == {compressed["counts"].decode()}


def test_a_record_has_area_and_box_of_its_mask_whatever_the_file_says() -> None:
    mask = disc()
    given = {
        "segmentation": official(mask),
        "area": 3,
        "bbox": [0, 0, 1, 1],
        "predicted_iou": 1.02,
        "stability_score": 0.5,
    }
    (record,) = checked([given | {"point_coords": [[4.5, 3.5]], "crop_box": [0, 0, 20, 30]}], SIZE, None, False)
    rows, columns = np.nonzero(mask)
    assert record is not None
    assert record["area"] == mask.sum()
    assert record["bbox"] == [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
    assert record["point_coords"] == [[4.5, 3.5]]
    assert record["crop_box"] == [0, 0, 20, 30]
    assert (record["predicted_iou"], record["stability_score"]) == (1.02, 0.5)


def test_what_is_not_there_has_a_neutral_value_and_an_empty_mask_is_none() -> None:
    bare, empty = checked(
        [{"segmentation": official(disc())}, {"segmentation": official(np.zeros(SIZE))}], SIZE, None, False
    )
    assert empty is None
    assert bare is not None
    assert (bare["predicted_iou"], bare["stability_score"], bare["crop_box"]) == (1.0, 1.0, [0, 0, 40, 30])
    ((x, y),) = bare["point_coords"]
    assert bare["bbox"][0] <= x <= bare["bbox"][0] + bare["bbox"][2] + 1
    assert bare["bbox"][1] <= y <= bare["bbox"][1] + bare["bbox"][3] + 1


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_masks_of_another_size_take_the_nearest_pixel(scale: float) -> None:
    frame = (round(SIZE[0] * scale), round(SIZE[1] * scale))
    given = {"segmentation": official(disc(frame)), "point_coords": [[10 * scale, 8 * scale]]}
    given["crop_box"] = [0, 0, frame[1], frame[0]]
    (record,) = checked([given], SIZE, frame, False)
    assert record is not None
    wanted = cv2.resize(disc(frame).astype(np.uint8), (40, 30), interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(rle.decode(record["segmentation"], *SIZE), wanted)
    assert record["point_coords"] == [[10, 8]]
    assert record["crop_box"] == [0, 0, 40, 30]


def test_every_reduction_to_a_longest_side_fits_and_other_proportions_do_not() -> None:
    for height, width in [(3000, 4001), (1999, 1025), (1025, 1024), (4000, 30)]:
        scale = 1024.0 / max(height, width)  # as LLM-Seg reduces
        checked([], (height, width), (int(height * scale), int(width * scale)), False)
    with pytest.raises(ImageFailure, match="proportions of the picture, which has 30 x 40 px"):
        checked([], SIZE, (32, 32), False)
    checked([], SIZE, (32, 32), True)
    with pytest.raises(ImageFailure, match="expected at most"):
        checked([], SIZE, (30_000, 40_000), False)
    with pytest.raises(ImageFailure, match="expected at most"):
        checked([], SIZE, (0, 0), True)


COUNTS = official(disc())["counts"].decode()
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another size": (
        {"segmentation": {"size": [20, 40], "counts": COUNTS}},
        r"size is \[20, 40\], expected \[30, 40\]",
    ),
    "exchanged": ({"segmentation": {"size": [40, 30], "counts": COUNTS}}, "height and width exchanged"),
    "short": ({"segmentation": {"size": [30, 40], "counts": "5"}}, "counts cover 5 px, expected 30 x 40 = 1200"),
    "no character of RLE": ({"segmentation": {"size": [30, 40], "counts": "5\n"}}, "expected '0' to 'o'"),
    "negative run": ({"segmentation": {"size": [30, 40], "counts": [1300, -100]}}, "expected 0 to"),
    "huge run": ({"segmentation": {"size": [30, 40], "counts": [10**30]}}, "no list of whole numbers"),
    "fractions": ({"segmentation": {"size": [30, 40], "counts": [600.5, 599.5]}}, "no list of whole numbers"),
    "megabytes": ({"segmentation": {"size": [30, 40], "counts": "0" * 10**6}}, "too many for 30 x 40 px"),
    "a polygon": ({"segmentation": [[1, 1, 5, 1, 5, 5]]}, "no COCO RLE"),
    "no mask": ({}, "no COCO RLE"),
    "NaN score": ({"segmentation": {"counts": COUNTS}, "predicted_iou": float("nan")}, "predicted_iou is nan"),
    "score as text": ({"segmentation": {"counts": COUNTS}, "predicted_iou": "0.9"}, "predicted_iou is 0.9"),
    "stability": ({"segmentation": {"counts": COUNTS}, "stability_score": 7}, "stability_score is 7, expected 0 to 1"),
    "infinite point": (
        {"segmentation": {"counts": COUNTS}, "point_coords": [[1, float("inf")]]},
        "point_coords is inf",
    ),
    "huge point": ({"segmentation": {"counts": COUNTS}, "point_coords": [[1, 10**4000]]}, "point_coords is 1000"),
    "crop": ({"segmentation": {"counts": COUNTS}, "crop_box": [0, 0, 41, 30]}, "crop_box .* is not inside 30 x 40 px"),
}


@pytest.mark.parametrize(("mask", "message"), WRONG.values(), ids=WRONG)
def test_a_mask_that_is_wrong_is_said_with_its_number(mask: dict[str, Any], message: str) -> None:
    right = {"segmentation": {"size": [30, 40], "counts": COUNTS}}
    with pytest.raises((ImageFailure, RleError), match=message) as error:
        checked([right, mask], SIZE, None, False)
    assert str(error.value).startswith("mask 1: ")


def test_a_picture_of_too_many_masks_and_a_mask_that_is_no_object() -> None:
    with pytest.raises(ImageFailure, match="expected at most"):
        checked([None] * (MAX_MASKS + 1), SIZE, None, False)
    with pytest.raises(ImageFailure, match="mask 0: found list, expected an object"):
        checked([[]], SIZE, None, False)


def test_vectors_are_numbers_of_one_length() -> None:
    assert vectors_of([[1, 2.5], [3, 4]], "v").tolist() == [[1, 2.5], [3, 4]]
    assert vectors_of([[[1, 2]], [[3, 4]]], "v").tolist() == [[1, 2], [3, 4]]  # as a batch of one gives them
    assert vectors_of([], "v").shape == (0, 0)
    for wrong in (
        [[1, 2], [3]],
        [["1", "2"]],
        [1, 2],
        [[10**400]],
        [[None]],
        [[True]],
        [[[1], [2]]],
    ):
        with pytest.raises(ImageFailure, match="v: "):
            vectors_of(wrong, "v")


def test_vectors_that_float16_cannot_hold() -> None:
    require_storable(vectors_of([[65504.0, -1.0]], "v"))
    with pytest.raises(ImageFailure, match="vector 1 has NaN"):
        require_storable(vectors_of([[1.0], [float("nan")]], "v"))
    for value in (70000.0, 1e300, float("-inf")):
        with pytest.raises(ImageFailure, match="vector 0 has a number that float16 cannot hold"):
            require_storable(vectors_of([[value]], "v"))
