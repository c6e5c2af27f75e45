"""labelme's shapes: exact masks, polygons with what they lose, labels that the reader would not take for a region."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from stages.datasets.shapes import raster, read_shapes
from stages.export import FORMATS
from stages.export.content import Asked
from stages.export.labelme import mask_shape
from store import rle

FORM = FORMATS["labelme"]


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_a_mask_is_exactly_its_pixels(mask: np.ndarray) -> None:
    if not mask.any():
        return
    (shape,) = read_shapes([{"label": "a", **mask_shape(mask)}])
    np.testing.assert_array_equal(raster(shape, *mask.shape), mask)


def documents(item: Any, what: str, **how: Any) -> tuple[dict[str, Any], list[str]]:
    asked = Asked("d", "val", (what,), 1, "none", "sam" if what == "masks" else None, **how)
    made = FORM.unit(asked, [item], 0)
    found = {name: json.loads(data) for name, data in made.files.items()}
    return found, FORM.remarks(asked, lambda: iter(made.entries))


def test_polygons_say_what_they_lose(item: Any) -> None:
    ring = np.zeros((20, 20), bool)
    ring[2:18, 2:18] = True
    ring[8:12, 8:12] = False
    parts = np.zeros((20, 20), bool)
    parts[1:5, 1:5] = parts[10:15, 10:15] = True
    found, said = documents(item("a", [ring, parts]), "masks", polygons=True)
    shapes = found["val/a.json"]["shapes"]
    assert [(shape["shape_type"], shape["group_id"]) for shape in shapes].count(("polygon", 0)) == 1
    assert [shape["group_id"] for shape in shapes].count(1) == 2, "a polygon for each part"
    lost = ring.sum() / (16 * 16)
    assert said == [
        f"polygons: 1 of 2 masks are not what they were; IoU with the mask: mean {(lost + 1) / 2:.4f}, lowest {lost:.4f} (image a)"
    ]
    painted = np.any([raster(shape, 20, 20) for shape in read_shapes(shapes) if shape.label], axis=0)
    assert painted[8:12, 8:12].all()


def target(number: int, texts: list[str], mask: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    nothing = np.zeros((4, 6), bool)
    given = {
        "target_id": f"a/{number}",
        "texts": texts,
        "is_sentence": True,
        "kind": "test",
        "answer": None,
        "turns": [],
    }
    pixels = {"segmentation": rle.encode(nothing if mask is None else mask), "ignore": rle.encode(nothing)}
    return {**given, "instances": [], "absent": mask is None, **pixels, **more}


def test_questions_have_files_as_the_reader_numbers_them(item: Any) -> None:
    mask = np.eye(4, 6, dtype=bool)
    asked = [
        target(0, ["first", "in other words"], mask, answer="there"),
        target(1, ["is there a unicorn?"], answer="no"),
        target(2, ["second"], mask),
        target(3, [], mask),
        target(4, ["and?"], turns=["What is this?", "A cat."]),
    ]
    found, _ = documents(item("a.7", targets=asked), "targets")
    assert list(found) == ["val/a%2E7.json", "val/a%2E7.1.json"], "a.7.json would be a question about the image a"
    first, second = found.values()
    assert (first["text"], first["is_sentence"]) == (["first", "in other words"], True)
    assert first["false_premise_QA"] == [["is there a unicorn?", True, "no"]]
    assert second["text"] == ["second"]
    assert (first["imagePath"], first["imageData"], first["imageHeight"], first["imageWidth"]) == (
        "a%2E7.jpg",
        None,
        4,
        6,
    )
    made = FORM.unit(Asked("d", "val", ("targets",), 1, "none"), [item("a", targets=asked)], 0)
    assert [(note.what, note.reason) for note in made.left_out] == [
        ("targets", "a/3 has no text, which the format needs"),
        ("targets", "a/4 is a conversation, which no mask answers"),
    ]


@pytest.mark.parametrize("label", ["flag", "FLAG", "ignore", "please Ignore me"])
def test_a_label_that_means_something_else_is_changed_and_said(item: Any, region: Any, label: str) -> None:
    mask = np.eye(4, 6, dtype=bool)
    found, said = documents(item(instances=[region(mask, label=label), region(mask, label="flagpole")]), "instances")
    assert sorted(shape["label"] for shape in found["val/a.json"]["shapes"]) == ["flagpole", "target"]
    assert said == ["1 regions got the label 'target': the reader would skip, or ignore, regions with their own label"]
