"""The hub's Parquet copies of ReasonSeg: read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from written_hub import SCHEMA, picture, row, write

from stages.datasets import hubfile
from stages.datasets.base import DatasetError, Source
from stages.datasets.params import ReasonSegHubOptions
from stages.datasets.reasonseg_hub import EMPTY, FOREGROUND, SENTENCE, annotate, list_sources
from stages.datasets.unpack import unpack
from stages.images import ImageFailure, read_image
from store import rle

MAX_PIXELS = 10_000_000


def mask(height: int = 6, width: int = 8, *box: int) -> Any:
    found = np.zeros((height, width), bool)
    top, left, bottom, right = box or (1, 2, 4, 7)
    found[top:bottom, left:right] = True
    return found


def read(root: Path, image_id: str, height: int = 6, width: int = 8, split: str = "val") -> Any:
    (source,) = [each for each in list_sources(root, split) if each.image_id == image_id]
    return annotate(root, source, height, width)


def test_a_row_is_a_target_and_its_mask_an_instance(tmp_path: Path) -> None:
    write(tmp_path, "val", [row("a.jpg", mask(), "What is it?"), row("b.jpg", mask(6, 8, 0, 0, 1, 1))])
    file = "ReasonSeg_val/data/test-00000-of-00001.parquet"
    assert list_sources(tmp_path, "val") == [Source("a", "val/a.jpg", (file,)), Source("b", "val/b.jpg", (file,))]
    found = read(tmp_path, "a")
    (target,), (instance,) = found.targets, found.instances
    assert (target.target_id, target.texts, target.kind, target.instances) == (
        "a/0",
        ("What is it?",),
        "reasonseg_hub",
        (0,),
    )
    assert (target.is_sentence, target.answer, target.absent, target.incomplete) == (True, None, False, False)
    assert (rle.decode(target.segmentation, 6, 8) == mask()).all()
    assert instance.segmentation == target.segmentation
    assert rle.area(target.ignore) == 0
    assert found.notes == (FOREGROUND, SENTENCE)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_masks_of_any_size_are_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root, rng = tmp_path_factory.mktemp("hub"), np.random.default_rng(data.draw(st.integers(0, 1000)))
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5))
    masks = [rng.random(size) < rng.random() for size in sizes]
    rows = [row(f"{n}.jpg", each, f"q{n}") for n, each in enumerate(masks)]
    write(root, "test", rows, group=data.draw(st.integers(1, 3)), parts=data.draw(st.integers(1, min(2, len(rows)))))
    assert [each.image_id for each in list_sources(root, "test")] == [str(n) for n in range(len(rows))]
    for n, each in enumerate(masks):
        (target,) = read(root, str(n), *each.shape, split="test").targets
        assert (rle.decode(target.segmentation, *each.shape) == each).all()
        assert target.texts == (f"q{n}",)


def painted(shapes: list[tuple[str, list[list[float]]]], height: int, width: int) -> Any:
    """The algorithm of dvlab-research/Seg-Zero's create_reasonseg_hf: LISA's, whose 255 a cast to bool makes true."""
    areas = []
    for _, points in shapes:
        one = np.zeros((height, width), np.uint8)
        cv2.polylines(one, np.array([points], np.int32), True, 1, 1)
        cv2.fillPoly(one, np.array([points], np.int32), 1)
        areas.append(one.sum())
    found = np.zeros((height, width), np.uint8)
    for index in np.argsort(areas)[::-1]:
        label, points = shapes[index]
        value = 255 if "ignore" in label.lower() else 1
        cv2.polylines(found, np.array([points], np.int32), True, value, 1)
        cv2.fillPoly(found, np.array([points], np.int32), value)
    return found.astype(bool)


def test_ignored_pixels_are_foreground(tmp_path: Path) -> None:
    shapes = [("target", [[1, 1], [5, 1], [5, 5], [1, 5]]), ("ignore", [[4, 4], [7, 4], [7, 6], [4, 6]])]
    whole = painted(shapes, 8, 10)
    write(tmp_path, "val", [row("a.jpg", whole)])
    (target,) = read(tmp_path, "a", 8, 10).targets
    assert (rle.decode(target.segmentation, 8, 10) == whole).all()
    assert whole[6, 7], "a pixel that ReasonSeg itself ignores"
    assert rle.area(target.ignore) == 0


def test_a_mask_without_a_pixel_is_not_absent(tmp_path: Path) -> None:
    write(tmp_path, "test", [row("a.jpg", np.zeros((6, 8), bool))])
    found = read(tmp_path, "a", split="test")
    assert found.instances == ()
    assert (found.targets[0].instances, found.targets[0].absent) == ((), False)
    assert EMPTY in found.notes


def test_ids_that_collide_at_the_first_dot_are_not_used(tmp_path: Path) -> None:
    write(tmp_path, "val", [row("a.1.jpg", mask()), row("a.2.jpg", mask(6, 8, 0, 0, 2, 2)), row("b.jpg", mask())])
    assert [each.image_id for each in list_sources(tmp_path, "val")] == ["a", "b"]
    with pytest.raises(ImageFailure, match=r"a\.1\.jpg and a\.2\.jpg are different pictures of one image_id, 'a'"):
        read(tmp_path, "a")
    assert read(tmp_path, "b").targets


def test_ids_that_collide_without_names_are_told_by_their_pictures(tmp_path: Path) -> None:
    def unnamed(seed: int, **more: Any) -> dict[str, Any]:
        return row("a.jpg", mask(), image={"bytes": picture(6, 8, seed), "path": None}, **more)

    write(tmp_path, "val", [unnamed(1), unnamed(2)], parts=2)
    with pytest.raises(ImageFailure, match="2 rows are different pictures"):
        read(tmp_path, "a")
    write(tmp_path, "test", [unnamed(1, text="one?"), unnamed(1, text="two?")], parts=2)
    found = read(tmp_path, "a", split="test")
    assert [target.texts for target in found.targets] == [("one?",), ("two?",)]
    assert [target.instances for target in found.targets] == [(0,), (0,)]


@pytest.mark.parametrize("size", [(8, 6), (6, 9), (12, 16)])
def test_a_mask_of_another_size_than_the_picture_is_a_failure(tmp_path: Path, size: tuple[int, int]) -> None:
    """Also where the sizes are swapped: whether the mask was painted upright is not to be known, so that it is not turned."""
    write(tmp_path, "val", [row("a.jpg", mask())])
    with pytest.raises(ImageFailure, match="'mask' has 8 x 6 px, the upright picture"):
        read(tmp_path, "a", *size)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"mask": [[True, False], [True]]}, "no list of rows of equal length"),
        ({"mask": [[True, None], [True, False]], "img_height": 2, "img_width": 2}, "no list of rows"),
        ({"mask": []}, "no list of rows"),
        ({"mask": [[], []]}, "no list of rows"),
        ({"mask": None}, "'mask' is missing"),
        ({"img_height": 7}, "'mask' has 8 x 6 px, 'img_width' and 'img_height' say 8 x 7"),
        ({"img_width": None}, "expected a size in px"),
        ({"img_height": -6}, "expected a size in px"),
        ({"img_height": 10**6, "img_width": 10**6}, "expected a size in px"),
        ({"text": ""}, "'text' has 0 characters"),
        ({"text": None}, "'text' is null"),
        ({"text": "x" * 70_000}, "'text' has 70000 characters"),
    ],
)  # fmt: skip
def test_a_row_that_is_unusable_fails_alone(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    write(tmp_path, "val", [{**row("a.jpg", mask()), **change}, row("b.jpg", mask())])
    with pytest.raises(ImageFailure, match=why) as caught:
        read(tmp_path, "a")
    assert "test-00000-of-00001.parquet" in str(caught.value)
    assert read(tmp_path, "b").targets


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image_id": None}, "row 1: 'image_id' is null"),
        ({"image_id": " "}, "row 1: 'image_id' has 1 characters"),
        ({"image_id": "../../a"}, "leads outside"),
        ({"image_id": "/etc/a"}, "leads outside"),
    ],
)
def test_a_row_of_no_picture_makes_the_set_unusable(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    write(tmp_path, "val", [row("a.jpg", mask()), row("b.jpg", mask(), **change)])
    with pytest.raises(DatasetError, match=why):
        list_sources(tmp_path, "val")


def test_a_file_that_is_missing_or_no_such_parquet(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "val", [row("a.jpg", mask())])
    with pytest.raises(
        DatasetError, match=r"no ReasonSeg_test/data/\*\.parquet .*there: ReasonSeg_val/data/test-00000"
    ):
        list_sources(tmp_path, "test")
    assert list_sources(tmp_path, "x", ReasonSegHubOptions(files="ReasonSeg_val/data/test-*.parquet"))
    with pytest.raises(DatasetError, match="leads outside"):
        list_sources(tmp_path, "x", ReasonSegHubOptions(files="../*.parquet"))
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(DatasetError, match="not Parquet"):
        list_sources(tmp_path, "val")
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(DatasetError, match=r"no column 'image' .*found: text: string"):
        list_sources(tmp_path, "val")
    write(tmp_path, "val", [], parts=1)
    with pytest.raises(DatasetError, match="have no rows"):
        list_sources(tmp_path, "val")


def test_a_broken_page_is_an_error(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "val", [row("a.jpg", mask(100, 100))])
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(bytes(data))
    with pytest.raises(ImageFailure, match="broken Parquet"):
        list(hubfile.pictures_of(tmp_path, path.relative_to(tmp_path).as_posix()))


def test_masks_larger_than_stated_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run-length bomb: few bytes, and a million pixels, where the row states a size of 6 x 8."""
    monkeypatch.setattr(hubfile, "SLACK", 1000)
    write(tmp_path, "val", [row("a.jpg", np.zeros((1000, 1000), bool), data=picture(6, 8), img_height=6, img_width=8)])
    with pytest.raises(ImageFailure, match="the masks of row group 0 have 1000000 pixels, where .* make 48"):
        read(tmp_path, "a")
    write(tmp_path, "test", [row("a.jpg", mask())])
    monkeypatch.setattr(hubfile, "MAX_VALUES", 10)
    with pytest.raises(ImageFailure, match="have 48 pixels"):
        read(tmp_path, "a", split="test")


def test_texts_are_not_read_where_a_column_is_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubfile, "MAX_COLUMN_BYTES", 1000)
    write(tmp_path, "val", [row("a.jpg", mask(), "x" * 5000)])
    with pytest.raises(DatasetError, match=r"column 'text' has \d+ bytes in row group 0, expected at most 1000"):
        list_sources(tmp_path, "val")


def test_large_lists_and_further_columns_are_read(tmp_path: Path) -> None:
    kinds = {"mask": pa.large_list(pa.large_list(pa.bool_())), "text": pa.large_string(), "img_height": pa.int32()}
    fields = [pa.field(each.name, kinds.get(each.name, each.type)) for each in SCHEMA]
    schema = pa.schema([*fields, ("bbox", pa.list_(pa.int64()))])
    write(tmp_path, "val", [{**row("a.jpg", mask()), "bbox": [1, 2, 3, 4]}], schema=schema)
    assert read(tmp_path, "a").targets


def unpacked(root: Path, folder: Path, max_pixels: int = MAX_PIXELS, split: str = "val") -> Any:
    return unpack(root, split, ReasonSegHubOptions(), folder, max_pixels)


def test_pictures_are_unpacked_byte_for_byte_and_only_once(tmp_path: Path) -> None:
    rows = [
        row("a.jpg", mask(), data=picture(6, 8, 1)),
        row("b.x.png", mask(), data=picture(6, 8, 2, "PNG")),
        row("a.jpg", mask(), "again?", data=picture(6, 8, 1)),
    ]
    write(tmp_path / "hub", "val", rows)
    out = tmp_path / "out"
    first = unpacked(tmp_path / "hub", out)
    assert (first.written, first.there, first.problems) == (2, 0, [])
    assert {path.name: path.read_bytes() for path in (out / "val").iterdir()} == {
        "a.jpg": rows[0]["image"]["bytes"], "b.png": rows[1]["image"]["bytes"],
    }  # fmt: skip
    again = unpacked(tmp_path / "hub", out)
    assert (again.written, again.there, again.problems) == (0, 2, [])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "hub", "val", [row("a.jpg", mask()), row("b.jpg", mask())])
    mine = tmp_path / "out/val/a.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    done = unpacked(tmp_path / "hub", tmp_path / "out")
    assert done.written == 1
    assert "'a': a.png is there already and is another picture; nothing is overwritten" in done.problems
    assert mine.read_bytes() == b"mine"
    assert sorted(path.name for path in mine.parent.iterdir()) == ["a.png", "b.jpg"]


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("a.jpg", {"image": {"bytes": None, "path": "a.jpg"}}, "no bytes of its picture"),
        ("a.jpg", {"image": {"bytes": b"no picture", "path": "a.jpg"}}, "no JPEG, PNG"),
        ("a.jpg", {"image": {"bytes": picture(6, 8)[:80], "path": "a.jpg"}}, ""),
        ("a.jpg", {"image": {"bytes": picture(60, 80), "path": "a.jpg"}}, "80 x 60 px are more than the 1000 px allowed"),
        ("a.jpg", {"image_id": "x/y"}, "no name of a file"),
        ("a.jpg", {"image_id": ".hidden"}, "no name of a file"),
        ("a.jpg", {"image_id": "a\x07"}, "no name of a file"),
        ("a.jpg", {"image_id": "x" * 201}, "no name of a file"),
        ("a.jpg", {"image_id": "C:a"}, "no name of a file"),
    ],
)  # fmt: skip
def test_what_is_no_picture_or_no_name_is_not_written(tmp_path: Path, name: str, change: Any, why: str) -> None:
    write(tmp_path / "hub", "val", [row(name, mask(), **change), row("b.jpg", mask())])
    done = unpacked(tmp_path / "hub", tmp_path / "out", 1000)
    assert done.written == 1
    assert len(done.problems) == 1
    assert why in done.problems[0]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")] == ["val/b.jpg"]


def test_pictures_whose_names_collide_are_not_written(tmp_path: Path) -> None:
    write(tmp_path / "hub", "val", [row("a.1.jpg", mask(), data=picture(6, 8, 1)), row("a.2.jpg", mask())])
    done = unpacked(tmp_path / "hub", tmp_path / "out")
    assert (done.written, len(done.problems)) == (0, 1)
    assert "different pictures of one image_id" in done.problems[0]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", none)
    write(tmp_path / "hub", "val", [row("a.jpg", mask())])
    assert unpacked(tmp_path / "hub", tmp_path / "out").written == 1
    assert [path.name for path in (tmp_path / "out/val").iterdir()] == ["a.jpg"]


def test_an_unpacked_picture_that_exif_turns_has_another_size_than_its_mask(tmp_path: Path) -> None:
    write(tmp_path / "hub", "val", [row("a.jpg", mask(), data=picture(6, 8, 1, orientation=6))])
    unpacked(tmp_path / "hub", tmp_path / "out")
    upright = read_image(tmp_path / "out/val/a.jpg", MAX_PIXELS)
    assert upright.shape[:2] == (8, 6)
    with Image.open(tmp_path / "out/val/a.jpg") as stored:
        assert stored.size == (8, 6)
    with pytest.raises(ImageFailure, match="before EXIF turned it"):
        read(tmp_path / "hub", "a", 8, 6)
