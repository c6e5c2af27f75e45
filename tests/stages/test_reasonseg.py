"""ReasonSeg annotations: LISA's painting, written again with cv2, and what makes a file unusable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.datasets import reasonseg
from stages.datasets.base import Annotation, Source
from stages.datasets.reasonseg import annotate
from stages.datasets.shapes import MAX_COORDINATE_PX
from stages.images import ImageFailure, read_image
from store import rle

PHOTOS = Path(__file__).parents[1] / "data" / "photos"
HEIGHT, WIDTH = 40, 50
SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20]]


def shape(label: str, points: object) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon", "flags": {}}


def document(*shapes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"shapes": list(shapes), "text": ["what is it?"], "is_sentence": True, **changes}


def read(root: Path, content: object, name: str = "a") -> Annotation:
    """Annotation of a JSON file with this content (bytes as they are)."""
    (root / "val").mkdir(exist_ok=True)
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / "val" / f"{name}.json").write_bytes(data)
    return annotate(root, Source(name, f"val/{name}.jpg", (f"val/{name}.json",)), HEIGHT, WIDTH)


def decoded(counts: str, height_px: int = HEIGHT, width_px: int = WIDTH) -> NDArray[np.bool_]:
    return rle.decode(counts, height_px, width_px)


def raster(points: object, height_px: int, width_px: int) -> NDArray[np.uint8]:
    mask = np.zeros((height_px, width_px), np.uint8)
    corners = [np.array(points, dtype=np.int32)]
    cv2.polylines(mask, corners, True, 1, 1)
    cv2.fillPoly(mask, corners, 1)
    return mask


def lisa_mask(shapes: list[dict[str, Any]], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """LISA's mask, uint8 [H, W]: 1 target, 255 ignored (dvlab-research/LISA, utils/data_processing.py)."""
    kept = [s for s in shapes if s["label"].lower() != "flag"]
    areas = [raster(s["points"], height_px, width_px).sum() for s in kept]
    mask = np.zeros((height_px, width_px), np.uint8)
    for i in np.argsort(areas, kind="stable")[::-1]:
        value = 255 if "ignore" in kept[i]["label"].lower() else 1
        corners = [np.array(kept[i]["points"], dtype=np.int32)]
        cv2.polylines(mask, corners, True, value, 1)
        cv2.fillPoly(mask, corners, value)
    return mask


def check_against_lisa(annotation: Annotation, shapes: list[dict[str, Any]], height_px: int, width_px: int) -> None:
    (target,) = annotation.targets
    mask = lisa_mask(shapes, height_px, width_px)
    np.testing.assert_array_equal(decoded(target.segmentation, height_px, width_px), mask == 1)
    np.testing.assert_array_equal(decoded(target.ignore, height_px, width_px), mask == 255)
    # Instances: every target polygon's own raster, without what ended as ignored; those with a pixel, in order.
    polygons = [s for s in shapes if s["label"].lower() != "flag" and "ignore" not in s["label"].lower()]
    rasters = [raster(s["points"], height_px, width_px) for s in polygons]
    order = np.argsort([r.sum() for r in rasters], kind="stable")[::-1]
    expected = [rasters[i].astype(bool) & (mask == 1) for i in order]
    assert [i.segmentation for i in annotation.instances] == [rle.encode(e) for e in expected if e.any()]
    assert [i.label for i in annotation.instances] == [
        polygons[i]["label"] for i, e in zip(order, expected, strict=True) if e.any()
    ]
    assert target.instances == tuple(range(len(annotation.instances)))
    union = rle.union([i.segmentation for i in annotation.instances], height_px, width_px)
    np.testing.assert_array_equal(decoded(union, height_px, width_px), mask == 1)


coordinate = st.one_of(st.integers(-30, 80), st.floats(-30, 80), st.sampled_from([-1e5, 1e5, -0.9, 0.9]))
polygon = st.builds(
    shape,
    st.sampled_from(["target", "target", "dog", "ignore", "Ignored_2", "FLAG", "flag"]),
    st.lists(st.tuples(coordinate, coordinate).map(list), min_size=1, max_size=7),
)


@settings(max_examples=200, deadline=None)
@given(shapes=st.lists(polygon, max_size=6), height_px=st.integers(1, 60), width_px=st.integers(1, 60))
def test_painting_is_lisas(
    shapes: list[dict[str, Any]], height_px: int, width_px: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "painting"
    (root / "val").mkdir(parents=True, exist_ok=True)
    (root / "val" / "a.json").write_text(json.dumps(document(*shapes)))
    annotation = annotate(root, Source("a", "val/a.jpg", ("val/a.json",)), height_px, width_px)
    check_against_lisa(annotation, shapes, height_px, width_px)


@pytest.mark.parametrize(
    "shapes",
    [
        [shape("target", SQUARE), shape("ignore", SQUARE)],  # equal areas: the first covers the other
        [shape("ignore", SQUARE), shape("target", SQUARE)],
        [shape("a", [[0, 0], [50, 0], [50, 40]]), shape("ignore", SQUARE), shape("b", [[12, 12], [14, 17]])],
    ],
)
def test_painting_order_is_lisas(tmp_path: Path, shapes: list[dict[str, Any]]) -> None:
    check_against_lisa(read(tmp_path, document(*shapes)), shapes, HEIGHT, WIDTH)


def test_points_are_cut_towards_zero(tmp_path: Path) -> None:
    corners = [[10.9, 10.9], [20.9, 10.9], [20.9, 20.9], [10.9, 20.9]]
    (target,) = read(tmp_path, document(shape("target", corners))).targets
    assert rle.bbox(target.segmentation, HEIGHT) == (10, 10, 11, 11)
    assert rle.area(target.segmentation) == 121
    (target,) = read(tmp_path, document(shape("target", [[-0.9, -0.9]]))).targets
    assert rle.bbox(target.segmentation, HEIGHT) == (0, 0, 1, 1)


def test_overlapping_polygons_stay_whole_and_ignored_pixels_leave_them(tmp_path: Path) -> None:
    large = shape("large", [[0, 0], [30, 0], [30, 30], [0, 30]])
    small = shape("small", [[5, 5], [9, 5], [9, 9], [5, 9]])
    ignored = shape("to ignore", SQUARE)
    annotation = read(tmp_path, document(small, ignored, large))
    assert [(i.label, rle.area(i.segmentation)) for i in annotation.instances] == [
        ("large", 31 * 31 - 11 * 11),
        ("small", 25),
    ]
    assert rle.area(annotation.targets[0].ignore) == 11 * 11


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [shape("flag", SQUARE)],
        [shape("target", [[100, 100], [120, 100], [120, 120]])],  # outside the frame
        [shape("ignore", SQUARE), shape("target", SQUARE)],  # all of it ignored
    ],
)
def test_nothing_to_see_is_an_empty_target(tmp_path: Path, shapes: list[dict[str, Any]]) -> None:
    annotation = read(tmp_path, document(*shapes))
    (target,) = annotation.targets
    assert annotation.instances == ()
    assert target.instances == ()
    assert rle.area(target.segmentation) == 0


def test_what_a_target_holds(tmp_path: Path) -> None:
    content = document(shape("target", SQUARE), text=["first?", "second?"], is_sentence=False)
    (target,) = read(tmp_path, content, "a.b").targets
    assert target.target_id == "a.b/0"
    assert target.texts == ("first?", "second?")
    assert target.is_sentence is False
    assert target.kind == "reasonseg"
    assert target.answer is None


def test_further_questions_are_targets_of_their_own_and_share_instances(tmp_path: Path) -> None:
    left, right = [[1, 1], [3, 1], [3, 3]], [[6, 2], [8, 2], [8, 4]]
    questions = [
        document(shape("target", left), text=["left?"]),
        document(shape("target", right), shape("target", left), text=["both?"]),
        document(text=["neither?"]),
    ]
    names = ("val/a.json", "val/a.1.json", "val/a.2.json")
    (tmp_path / "val").mkdir()
    (tmp_path / "explanatory").mkdir()
    for name, content in zip(names, questions, strict=True):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "explanatory" / "val.json").write_text('[{"image": "a.jpg", "outputs": "The left one."}]')
    found = annotate(tmp_path, Source("a", "val/a.jpg", (*names, "explanatory/val.json")), HEIGHT, WIDTH)
    assert len(found.instances) == 2
    assert [target.target_id for target in found.targets] == ["a/0", "a/1", "a/2"]
    assert [target.texts for target in found.targets] == [("left?",), ("both?",), ("neither?",)]
    assert [target.answer for target in found.targets] == ["The left one.", None, None]
    assert found.targets[0].instances == (0,)
    assert sorted(found.targets[1].instances) == [0, 1]
    assert found.targets[2].instances == ()
    for target in found.targets:
        regions = [decoded(found.instances[number].segmentation) for number in target.instances]
        union = np.any([np.zeros((HEIGHT, WIDTH), bool), *regions], axis=0)
        assert np.array_equal(union, decoded(target.segmentation))
    (tmp_path / names[1]).write_text("{")
    with pytest.raises(ImageFailure, match=r"^val/a.1.json: not JSON"):
        annotate(tmp_path, Source("a", "val/a.jpg", names), HEIGHT, WIDTH)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_text_is_utf8_or_else_cp1252(tmp_path: Path, encoding: str) -> None:
    text = "Where\u2019s the caf\u00e9?"
    data = json.dumps(document(text=[text]), ensure_ascii=False).encode(encoding)
    assert read(tmp_path, data).targets[0].texts == (text,)


def test_a_flag_may_be_broken_for_nobody_reads_it(tmp_path: Path) -> None:
    assert read(tmp_path, document(shape("Flag", "nonsense"))).instances == ()


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"^val/a.json: file is empty"),
        (b"{", r"^val/a.json: not JSON: .*line 1 column 2"),
        (
            b'{"text": "\x81"}',
            r"^val/a.json: text is not UTF-8 or cp1252; name its encoding.* in encoding of the data set",
        ),
        (b"[" * 100_000, r"^val/a.json: not JSON: "),
        (b'{"shapes": ' + b"9" * 5000 + b"}", r"^val/a.json: not JSON: "),
        ([], r"^val/a.json: found list, expected an object with 'shapes'$"),
        ({"text": ["?"], "is_sentence": True}, r"key 'shapes' is missing \(found: 'is_sentence', 'text'\)$"),
        ({"shapes": [], "is_sentence": True}, r"key 'text' is missing"),
        ({"shapes": [], "text": ["?"]}, r"key 'is_sentence' is missing"),
        (document(shapes={}), r"'shapes' is dict, expected list$"),
        ({"k" * 1000 + "\ud800": 1}, r"key 'shapes' is missing \(found: 'k{200,270}$"),
        (document(text="why?"), r"'text' is str, expected list$"),
        (document(text=[]), r"'text' is empty"),
        (document(text=["?", None]), r"text 1 is null, expected str$"),
        (document(text=["\ud800"]), r"text 0 has half of a surrogate pair"),
        (document(is_sentence=1), r"'is_sentence' is int, expected bool$"),
        (document({"points": SQUARE}), r"shape 0: key 'label' is missing"),
        (document({"label": "target"}), r"shape 0: key 'points' is missing"),
        (document(shape("target", SQUARE), shape("target", [])), r"shape 1: 'points' is empty"),
        (document(shape("target", [[1, 2], [3]])), r"shape 0: point 1 is \[3\], expected \[x, y\]$"),
        (document(shape("target", [[1, 2, 3]])), r"shape 0: point 0 is \[1, 2, 3\], expected"),
        (document(shape("target", ["\ud800"])), r"shape 0: point 0 is '\\ud800', expected"),
        (document(shape("target", [["1", 2]])), r"shape 0: point 0 is \['1', 2\], expected"),
        (document(shape("target", [[True, 2]])), r"shape 0: point 0 is \[True, 2\], expected"),
        (document(shape("target", [[NAN, 2]])), r"shape 0: point 0 is \[nan, 2\], expected numbers between"),
        (document(shape("target", [[1, -INFINITE]])), r"shape 0: point 0 is \[1, -inf\], expected numbers"),
        (document(shape("target", [[1, 2], [2**31, 2]])), r"shape 0: point 1 is \[2147483648, 2\], expected"),
        (document(shape("target", [[10**400, 2]])), r"shape 0: point 0 is \[1000.*, expected numbers"),
        (document(shape("ignore", [[MAX_COORDINATE_PX + 0.5, 2]])), r"shape 0: point 0 .*, expected numbers"),
    ],
)
def test_an_unusable_annotation_is_a_reason_in_one_line(tmp_path: Path, content: object, reason: str) -> None:
    with pytest.raises(ImageFailure, match=reason) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()  # without halves of surrogate pairs, which no table takes
    assert str(tmp_path) not in str(caught.value)


PHOTO_SIZES = {
    "train": {"chelsea": (300, 451), "rocket": (427, 640)},
    "val": {"astronaut": (448, 512), "camera": (512, 512), "coffee": (400, 600), "eagle": (2019, 1826)},
}


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_photographs(split: str) -> None:
    loader = reasonseg
    sources = loader.list_sources(PHOTOS, split)
    assert [s.image_id for s in sources] == sorted(PHOTO_SIZES[split])
    for source in sources:
        pixels = read_image(PHOTOS / source.path, 4_000_000)
        picture = cv2.imread(str(PHOTOS / source.path))
        assert picture is not None
        np.testing.assert_array_equal(pixels, picture[:, :, ::-1])
        height_px, width_px = pixels.shape[:2]
        assert (height_px, width_px) == PHOTO_SIZES[split][source.image_id]
        annotation = loader.annotate(PHOTOS, source, height_px, width_px)
        data = (PHOTOS / source.annotations[0]).read_bytes()
        shapes = json.loads(data.decode("cp1252" if source.image_id == "coffee" else "utf-8"))["shapes"]
        check_against_lisa(annotation, shapes, height_px, width_px)
        assert annotation.instances


def test_photographs_are_the_ones_that_their_readme_lists() -> None:
    text = (PHOTOS / "README.md").read_text()
    files = [p for p in PHOTOS.rglob("*") if p.is_file() and p.name != "README.md"]
    assert len(files) == 13
    for path in files:
        line = f"`{path.relative_to(PHOTOS).as_posix()}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}`"
        assert line in text
    with pytest.raises(UnicodeDecodeError):
        (PHOTOS / "val" / "coffee.json").read_text(encoding="utf-8")
