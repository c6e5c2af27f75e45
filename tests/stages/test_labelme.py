"""What labelme writes besides labels and points: shape types, encodings, and the size of the image that was annotated."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stages.datasets.base import Annotation, DatasetError, Source
from stages.datasets.params import ReasonSegOptions
from stages.datasets.reasonseg import annotate, list_sources
from stages.datasets.shapes import raster, read_shapes
from stages.images import ImageFailure
from store import rle

HEIGHT, WIDTH = 120, 160
SQUARE = [[40, 30], [80, 30], [80, 60], [40, 60]]


def shape(kind: str | None, points: Any, label: str = "target", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, **({} if kind is None else {"shape_type": kind}), **more}


def png(mask: NDArray[np.bool_]) -> str:
    """A mask as labelme writes it."""
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(root: Path, document: dict[str, Any] | bytes, name: str = "a") -> Source:
    (root / "val").mkdir(exist_ok=True)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (root / "val" / f"{name}.json").write_bytes(data)
    return Source(name, f"val/{name}.jpg", (f"val/{name}.json",))


def read(root: Path, *shapes: dict[str, Any], **more: Any) -> Annotation:
    document = {"shapes": list(shapes), "text": ["what is it?"], "is_sentence": True, **more}
    return annotate(root, write(root, document), HEIGHT, WIDTH)


def mask_of(annotation: Annotation, height_px: int = HEIGHT, width_px: int = WIDTH) -> NDArray[np.bool_]:
    (target,) = annotation.targets
    return rle.decode(target.segmentation, height_px, width_px)


@pytest.mark.parametrize(
    ("kind", "points", "area"),
    [
        # Counted with shape_to_mask of labelme 6.3.1 and Pillow, but for the circle: OpenCV's.
        ("rectangle", [[40, 30], [80, 60]], 1271),
        ("rectangle", [[80.7, 60.2], [40.4, 30.9]], 1271),
        ("circle", [[60, 45], [80, 45]], 1257),
        ("line", [[10, 10], [100, 60]], 888),
        ("linestrip", [[10, 10], [50, 90], [100.5, 20.25]], 1617),
        ("point", [[50, 50]], 97),
        ("oriented_rectangle", [[40, 20], [70, 40], [50, 70], [20, 50]], 1341),
    ],
)
def test_a_shape_has_the_pixels_that_labelme_gives_it(tmp_path: Path, kind: str, points: Any, area: int) -> None:
    found = read(tmp_path, shape(kind, points))
    assert mask_of(found).sum() == area
    assert [(each.label, rle.area(each.segmentation)) for each in found.instances] == [("target", area)]
    assert found.notes == (f"{kind} painted by its shape_type",)


def labelmes(kind: str, points: list[tuple[float, float]], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """labelme's ``shape_to_mask``, written again."""
    image = Image.fromarray(np.zeros((height_px, width_px), np.uint8))
    draw = ImageDraw.Draw(image)
    if kind == "point":
        (x, y), radius = points[0], 5
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=1, fill=1)
    elif kind == "rectangle":
        draw.rectangle([tuple(np.min(points, 0)), tuple(np.max(points, 0))], outline=1, fill=1)
    elif kind == "oriented_rectangle":
        draw.polygon(points, outline=1, fill=1)
    else:
        draw.line(points, fill=1, width=10)
    return np.array(image, dtype=bool)


coordinate = st.one_of(st.integers(-30, 120), st.floats(-30, 120))
counts = {"rectangle": 2, "line": 2, "point": 1, "oriented_rectangle": 4, "linestrip": 5}


@settings(max_examples=200, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(counts)), height_px=st.integers(1, 90), width_px=st.integers(1, 90))
def test_every_pixel_is_labelmes(data: st.DataObject, kind: str, height_px: int, width_px: int) -> None:
    size = counts[kind]
    points = data.draw(st.lists(st.tuples(coordinate, coordinate), min_size=size, max_size=size))
    (found,) = read_shapes([shape(kind, [list(point) for point in points])])
    np.testing.assert_array_equal(raster(found, height_px, width_px), labelmes(kind, points, height_px, width_px))


@pytest.mark.parametrize("radius", [0, 1, 2, 5, 15, 20, 200, 900_000])
def test_a_circle_is_the_pixels_within_its_radius(radius: int) -> None:
    (found,) = read_shapes([shape("circle", [[60, 45], [60, 45 + radius]])])
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    np.testing.assert_array_equal(raster(found, HEIGHT, WIDTH), np.hypot(rows - 45, columns - 60) <= radius)


@pytest.mark.parametrize("kind", [None, "polygon"])
def test_a_polygon_is_painted_as_lisa_paints_it(tmp_path: Path, kind: str | None) -> None:
    corners = [[40.9, 30.2], [80.4, 33.9], [60, 70]]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.polylines(expected, [np.array(corners, np.int32)], True, 1, 1)
    cv2.fillPoly(expected, [np.array(corners, np.int32)], 1)
    found = read(tmp_path, shape(kind, corners))
    np.testing.assert_array_equal(mask_of(found), expected == 1)
    assert found.notes == ()
    assert read(tmp_path, {**shape(None, corners), "shape_type": None}).targets == found.targets


@pytest.mark.parametrize("corner", [(0, 0), (100, 70), (-3, -5), (150, 115), (500, 500), (-50, 20)])
def test_a_mask_lies_where_its_box_is(tmp_path: Path, corner: tuple[int, int]) -> None:
    x, y = corner
    mask = np.random.default_rng(0).random((9, 14)) < 0.5
    expected = np.zeros((HEIGHT + 1200, WIDTH + 1200), bool)
    expected[600 + y : 609 + y, 600 + x : 614 + x] = mask
    found = read(tmp_path, shape("mask", [[x, y], [x + 13, y + 8]], mask=png(mask)))
    np.testing.assert_array_equal(mask_of(found), expected[600 : 600 + HEIGHT, 600 : 600 + WIDTH])
    moved = read(tmp_path, shape("mask", [[x + 0.3, y - 0.2], [x + 13.3, y + 7.8]], mask=png(mask)))
    np.testing.assert_array_equal(mask_of(moved), mask_of(found))


def test_shapes_of_all_types_are_painted_in_lisas_order(tmp_path: Path) -> None:
    """The largest first; what is to be ignored covers what is larger, and is covered by what is smaller."""
    disc, hole, square = (
        shape("point", [[60, 45]]),
        shape("circle", [[60, 45], [75, 45]], "ignore it"),
        shape(None, SQUARE),
    )
    found = read(tmp_path, disc, hole, square)
    (target,) = found.targets
    ring = raster(read_shapes([shape("circle", [[60, 45], [75, 45]])])[0], HEIGHT, WIDTH)
    point = labelmes("point", [(60, 45)], HEIGHT, WIDTH)
    np.testing.assert_array_equal(rle.decode(target.ignore, HEIGHT, WIDTH), ring & ~point)
    assert [rle.area(each.segmentation) for each in found.instances] == [
        1271 - (ring & mask_of(read(tmp_path, square))).sum() + point.sum(),
        point.sum(),
    ]
    assert sorted(found.notes) == ["circle painted by its shape_type", "point painted by its shape_type"]


WHOLE = np.ones((3, 4), bool)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            shape("points", [[1, 2], [3, 4], [5, 6]]),
            r"shape 0: 'shape_type' is 'points', expected one of polygon, rectangle",
        ),
        (shape("rotation", SQUARE), r"'shape_type' is 'rotation', expected one of"),
        (shape("Rectangle", SQUARE[:2]), r"'shape_type' is 'Rectangle', expected one of"),
        ({**shape(None, SQUARE), "shape_type": 3}, r"'shape_type' is 3, expected one of"),
        (shape("rectangle", SQUARE), r"a rectangle with 4 points, expected 2$"),
        (shape("circle", [[1, 2]]), r"a circle with 1 points, expected 2$"),
        (shape("line", SQUARE), r"a line with 4 points, expected 2$"),
        (shape("linestrip", [[1, 2]]), r"a linestrip with 1 points, expected 2 or more$"),
        (shape("point", [[1, 2], [3, 4]]), r"a point with 2 points, expected 1$"),
        (shape("oriented_rectangle", SQUARE[:3]), r"an? oriented_rectangle with 3 points, expected 4$"),
        (shape("mask", [[0, 0], [3, 2]]), r"key 'mask' is missing"),
        (shape("mask", [[0, 0], [3, 2]], mask=None), r"'mask' is null, expected str$"),
        (shape("mask", [[0, 0], [3, 2]], mask="%%%"), r"'mask' is not a PNG in base64$"),
        (shape("mask", [[0, 0], [3, 2]], mask=png(WHOLE)[:40]), r"'mask' is not a PNG in base64$"),
        (shape("mask", [[0, 0], [4, 2]], mask=png(WHOLE)), r"'mask' has 4 x 3 px, its points span 5 x 3 px$"),
        (shape("mask", [[3, 2], [0, 0]], mask=png(WHOLE)), r"'mask' has 4 x 3 px, its points span -2 x -1 px$"),
    ],
)
def test_what_marks_no_region_fails_its_image_by_name(tmp_path: Path, broken: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageFailure, match=rf"^val/a.json: shape 0: .*{reason}" if "shape 0" not in reason else reason):
        read(tmp_path, broken)


@pytest.mark.parametrize("encoding", ["gbk", "big5", "shift_jis", "euc_kr", "cp1251", "utf-16", "utf-16-le", "utf-32"])
def test_text_in_another_encoding_is_read_when_it_is_named(tmp_path: Path, encoding: str) -> None:
    question = {"euc_kr": "\uac1c\ub294 \uc5b4\ub514", "cp1251": "\u0433\u0434\u0435 \u043a\u043e\u0442"}.get(
        encoding, "\u72d7\u5728\u4f55\u8655" if encoding == "big5" else "\u732b\u306f"
    )
    question = "\u732b\u5728\u54ea\u91cc" if encoding in ("gbk", "utf-16-le") else question
    document = {"shapes": [shape(None, SQUARE, question)], "text": [question], "is_sentence": False}
    source = write(tmp_path, json.dumps(document, ensure_ascii=False).encode(encoding))
    with pytest.raises(
        ImageFailure,
        match=r"^val/a.json: text is not UTF-8; name its encoding, such as gbk, in encoding of the data set",
    ):
        annotate(tmp_path, source, HEIGHT, WIDTH)
    found = annotate(tmp_path, source, HEIGHT, WIDTH, ReasonSegOptions(encoding=encoding))
    assert found.targets[0].texts == (question,)
    assert found.instances[0].label == question
    assert found.notes == (f"JSON read as {encoding}",)
    with pytest.raises(ImageFailure, match=r"text is not UTF-8 or ascii; name its encoding"):
        annotate(tmp_path, source, HEIGHT, WIDTH, ReasonSegOptions(encoding="ascii"))


@pytest.mark.parametrize("encoding", [None, "gbk"])
def test_utf8_comes_first_whatever_is_named(tmp_path: Path, encoding: str | None) -> None:
    text = "\u732b\u5728\u54ea\u91cc\uff1f caf\u00e9"
    for codec in ("utf-8", "utf-8-sig"):
        data = json.dumps({"shapes": [], "text": [text], "is_sentence": True}, ensure_ascii=False).encode(codec)
        found = annotate(tmp_path, write(tmp_path, data), HEIGHT, WIDTH, ReasonSegOptions(encoding=encoding))
        assert (found.targets[0].texts, found.notes) == ((text,), ())


def test_western_text_is_read_as_cp1252_and_counted(tmp_path: Path) -> None:
    text = "Where\u2019s the caf\u00e9?"
    data = json.dumps({"shapes": [], "text": [text], "is_sentence": True}, ensure_ascii=False).encode("cp1252")
    found = annotate(tmp_path, write(tmp_path, data), HEIGHT, WIDTH)
    assert (found.targets[0].texts, found.notes) == ((text,), ("JSON read as cp1252",))


def test_answers_have_the_same_encodings(tmp_path: Path) -> None:
    source = write(tmp_path, {"shapes": [], "text": ["?"], "is_sentence": True})
    (tmp_path / "val" / "a.jpg").write_bytes(b"x")
    (tmp_path / "explanatory").mkdir()
    answers = [{"image": "a.jpg", "outputs": "\u732b\u5728\u8fd9\u91cc"}]
    (tmp_path / "explanatory/val.json").write_bytes(json.dumps(answers, ensure_ascii=False).encode("gbk"))
    with pytest.raises(
        DatasetError, match=r"explanatory/val.json: text is not UTF-8; name its encoding.*in encoding of the data set"
    ):
        list_sources(tmp_path, "val")
    (listed,) = list_sources(tmp_path, "val", ReasonSegOptions(encoding="gbk"))
    assert listed.annotations == (*source.annotations, "explanatory/val.json")
    found = annotate(tmp_path, listed, HEIGHT, WIDTH, ReasonSegOptions(encoding="gbk"))
    assert found.targets[0].answer == "\u732b\u5728\u8fd9\u91cc"
    assert found.notes == ("answer read as gbk",)


def photograph(root: Path, orientation: int, suffix: str = "jpg") -> Path:
    """An image of 160 x 120 stored pixels; with an EXIF orientation of 5 to 8 it is 120 x 160 px upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    (root / "val").mkdir(exist_ok=True)
    path = root / "val" / f"a.{suffix}"
    Image.new("RGB", (160, 120)).save(path, exif=exif)
    return path


def stored_frame(document: dict[str, Any], tmp_path: Path, suffix: str = "jpg") -> Annotation:
    source = Source("a", f"val/a.{suffix}", write(tmp_path, document).annotations)
    return annotate(tmp_path, source, 160, 120)


def swapped(*shapes: dict[str, Any]) -> dict[str, Any]:
    sizes = {"imageWidth": 160, "imageHeight": 120}
    return {"shapes": list(shapes), "text": ["?"], "is_sentence": True, **sizes}


@pytest.mark.parametrize("kind", ["polygon", "rectangle"])
@pytest.mark.parametrize(
    ("orientation", "suffix"), [(5, "jpg"), (6, "jpg"), (7, "jpg"), (8, "jpg"), (6, "png"), (8, "tif")]
)
def test_points_from_before_the_exif_rotation_turn_with_the_image(
    tmp_path: Path, orientation: int, suffix: str, kind: str
) -> None:
    path = photograph(tmp_path, orientation, suffix)
    points = [[130, 10], [150, 40]] if kind == "rectangle" else [[130, 10], [150, 10], [150, 40], [135, 45]]
    found = stored_frame(swapped(shape(kind, points)), tmp_path, suffix)
    # The pixels that were marked, drawn into the file itself, and turned by OpenCV as it turns the photograph.
    stored = raster(read_shapes([shape(kind, points)])[0], 120, 160)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.repeat(stored[:, :, None], 3, 2).astype(np.uint8) * 255).save(
        path.with_suffix(".png"), exif=exif
    )
    turned = cv2.imread(str(path.with_suffix(".png")))
    assert turned is not None
    np.testing.assert_array_equal(mask_of(found, 160, 120), turned[:, :, 0] > 0)
    assert f"shapes drawn before EXIF orientation {orientation}, turned with the image" in found.notes
    assert rle.decode(found.instances[0].segmentation, 160, 120).sum() == stored.sum()


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_a_swap_that_exif_does_not_explain_fails(tmp_path: Path, orientation: int) -> None:
    photograph(tmp_path, orientation)
    with pytest.raises(ImageFailure, match=r"the JSON says 160 x 120 px .*has 120 x 160, and no EXIF orientation"):
        stored_frame(swapped(shape(None, [[130, 10], [150, 10], [150, 40]])), tmp_path)


@pytest.mark.parametrize(
    ("shapes", "which"),
    [
        ([shape(None, SQUARE)], "both frames"),
        ([], "both frames"),
        ([shape(None, [[130, 10], [150, 130], [20, 20]])], "neither frame"),
    ],
)
def test_a_swap_that_no_point_decides_fails(tmp_path: Path, shapes: list[dict[str, Any]], which: str) -> None:
    photograph(tmp_path, 6)
    with pytest.raises(
        ImageFailure, match=rf"says 160 x 120 px .*has 120 x 160, which EXIF orientation 6 .*fit {which}"
    ):
        stored_frame(swapped(*shapes), tmp_path)


def test_points_of_the_upright_frame_alone_stay(tmp_path: Path) -> None:
    photograph(tmp_path, 6)
    points = [[10, 130], [40, 130], [40, 150], [10, 150]]
    found = stored_frame(swapped(shape(None, points), shape(None, [[1000, 1000]], "flag")), tmp_path)
    assert rle.bbox(found.targets[0].segmentation, 160) == (10, 130, 31, 21)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"imageWidth": 320, "imageHeight": 240}, r"says 320 x 240 px .*image has 160 x 120: factor 0.5;"),
        ({"imageWidth": 80, "imageHeight": 60}, r"says 80 x 60 px .*: factor 2;"),
        ({"imageWidth": 80, "imageHeight": 120}, r"says 80 x 120 px .*: factor 2 x 1;"),
        ({"imageHeight": 119}, r"says 160 x 119 px .*: factor 1 x 1.008;"),
        ({"imageWidth": "160"}, r"'imageWidth' is '160', expected a number of px$"),
        ({"imageWidth": 0}, r"'imageWidth' is 0, expected a number of px$"),
    ],
)
def test_an_annotation_of_another_size_fails_with_both(tmp_path: Path, sizes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ImageFailure, match=rf"^val/a.json: .*{reason}"):
        read(tmp_path, shape(None, SQUARE), **sizes)


@pytest.mark.parametrize(
    "sizes", [{}, {"imageWidth": None}, {"imageWidth": 160, "imageHeight": 120}, {"imageWidth": 160.0}]
)
def test_sizes_that_agree_or_are_not_there_change_nothing(tmp_path: Path, sizes: dict[str, Any]) -> None:
    assert mask_of(read(tmp_path, shape(None, SQUARE), **sizes)).sum() == 1271
