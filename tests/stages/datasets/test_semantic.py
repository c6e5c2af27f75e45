"""Label maps: what their values mean in each published set, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from written_semantic import jpeg, mapillary_config, png, raw_png

from stages.datasets import data_params, list_sources, loader, reading
from stages.datasets.base import Annotation, DatasetError, Source
from stages.datasets.classes import classes_of
from stages.datasets.labelmap import regions
from stages.datasets.params import SemanticOptions
from stages.datasets.semantic import annotate
from stages.images import ImageFailure
from store import rle
from store.read.folders import Folders
from store.read.pixels import oriented

SIZE = (6, 8)
COCO = SemanticOptions(labels="cocostuff")
VISTAS = SemanticOptions(labels="mapillary")
READABLE = ["Bird", "Ground Animal", "Car", "Ego Vehicle", "Unlabeled"]


def read(root: Path, values: Any, options: SemanticOptions = COCO, **how: Any) -> Annotation:
    """What a label map of these values says."""
    png(root / "map.png", values, **how)
    height, width = np.asarray(values).shape[:2]
    return annotate(root, Source("x", "x.jpg", ("map.png",)), height, width, options)


def names(annotation: Annotation) -> list[str]:
    return [text for target in annotation.targets for text in target.texts]


def full(value: int) -> NDArray[np.uint8]:
    return np.full(SIZE, value, np.uint8)


def lisa_masks(values: Any, labels: str, classes: list[str]) -> dict[str, Any]:
    """Name -> mask, by dvlab-research/LISA's utils/sem_seg_dataset.py, whose arithmetic wraps around at 8 bits."""
    label = np.array(values, np.uint8)
    if labels == "ade20k":
        label[label == 0] = 255
        label -= 1
        label[label == 254] = 255
    elif labels == "cocostuff":
        for place, name in enumerate(classes):
            if "-" in name:
                label[label == place] = 255
    present = [value for value in np.unique(label).tolist() if value != 255]
    return {classes[value]: label == value for value in present}


@pytest.mark.parametrize(("labels", "highest"), [("ade20k", 150), ("cocostuff", 181)])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_published_sets_are_read_as_lisa_reads_them(
    labels: str, highest: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("map")
    void = 0 if labels == "ade20k" else 255
    some = st.sampled_from([void, 1, 2, highest, data.draw(st.integers(1, highest))])
    values = data.draw(arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=some))
    options = SemanticOptions(labels=labels)
    annotation = read(root, values, options, palette=data.draw(st.booleans()))
    listed = (Path(__file__).parents[3] / "stages/datasets/names" / f"{labels}.txt").read_text().splitlines()
    expected = lisa_masks(values, labels, listed)
    assert names(annotation) == list(expected)
    for number, (target, name) in enumerate(zip(annotation.targets, expected, strict=True)):
        assert target.segmentation == rle.encode(expected[name]) == annotation.instances[number].segmentation
        assert (target.instances, annotation.instances[number].label) == ((number,), name)
        assert target.ignore == rle.encode(~np.logical_or.reduce(list(expected.values())))


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 7, 255])))
def test_run_lengths_of_all_values_are_those_of_each_mask(values: Any) -> None:
    assert regions(values) == {int(value): rle.encode(values == value) for value in np.unique(values)}


def test_the_lists_of_names_are_whole() -> None:
    ade20k, cocostuff = (classes_of(Path(), SemanticOptions(labels=labels)) for labels in ("ade20k", "cocostuff"))
    assert sorted(ade20k.names) == list(range(1, 151))
    assert len(set(ade20k.names.values())) == 150
    assert (ade20k.names[1], ade20k.names[150], ade20k.void) == ("wall", "flag", {0})
    assert sorted({*cocostuff.names, *cocostuff.void}) == [*range(182), 255]
    assert len(set(cocostuff.names.values())) == 154
    assert len(cocostuff.void) == 28 + 1
    assert (cocostuff.names[0], cocostuff.names[181]) == ("person", "wood")


def test_zero_of_ade20k_is_void_and_the_rest_is_minus_one(tmp_path: Path) -> None:
    values = full(0)
    values[2:4] = 13
    annotation = read(tmp_path, values, SemanticOptions())
    (target,) = annotation.targets
    assert (target.target_id, target.texts, target.is_sentence, target.kind) == ("x/0", ("person",), False, "semantic")
    assert (target.answer, target.absent, target.incomplete) == (None, False, False)
    assert target.segmentation == rle.encode(values == 13)
    assert target.ignore == rle.encode(values == 0)


def test_nothing_is_subtracted_from_coco_stuff_and_zero_is_a_person(tmp_path: Path) -> None:
    values = full(255)
    values[0, 0] = 0
    values[1, 1] = 95  # building-other, which is void as in LISA
    annotation = read(tmp_path, values)
    assert names(annotation) == ["person"]
    assert annotation.targets[0].ignore == rle.encode(values != 0)


def test_a_single_pixel_is_a_target(tmp_path: Path) -> None:
    values = full(2)
    values[5, 7] = 156
    assert names(read(tmp_path, values)) == ["car", "sky"]


def test_a_map_of_void_alone_has_no_target(tmp_path: Path) -> None:
    assert read(tmp_path, full(255)) == Annotation((), ())


def test_mapillary_has_no_void_and_asks_even_for_what_is_unlabeled(tmp_path: Path) -> None:
    mapillary_config(tmp_path / "config_v2.0.json", READABLE)
    values = full(4)
    values[3] = 1
    png(tmp_path / "training/v2.0/labels/a.png", values, palette=True)
    jpeg(tmp_path / "training/images/a.jpg", *SIZE)
    (source,) = list_sources(data("mapillary"), Folders(tmp_path), "train")
    assert source == Source("a", "training/images/a.jpg", ("training/v2.0/labels/a.png", "config_v2.0.json"))
    annotation = annotate(tmp_path, source, *SIZE, VISTAS)
    assert names(annotation) == ["ground animal", "unlabeled"]
    assert annotation.targets[0].ignore == rle.encode(values > 9)
    dropped = annotate(tmp_path, source, *SIZE, SemanticOptions(labels="mapillary", drop=("unlabeled",)))
    assert names(dropped) == ["ground animal"]
    assert dropped.targets[0].ignore == rle.encode(values == 4)


def test_mapillary_1_2_has_its_own_names_and_folder(tmp_path: Path) -> None:
    mapillary_config(tmp_path / "config_v1.2.json", READABLE[::-1])
    png(tmp_path / "validation/v1.2/labels/a.png", full(0))
    options = {"labels": "mapillary", "version": "v1.2"}
    (source,) = list_sources(data(**options), Folders(tmp_path), "val")
    assert names(annotate(tmp_path, source, *SIZE, SemanticOptions(**options))) == ["unlabeled"]


def test_names_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ground\nroof\r\n")
    png(tmp_path / "annotations/all/a.b.png", np.array([[0, 1, 9, 255]], np.uint8))
    options = {"labels": "own", "void": (9, 255)}
    (source,) = list_sources(data(**options), Folders(tmp_path), "all")
    assert source == Source("a.b", "images/all/a.b.jpg", ("annotations/all/a.b.png", "names.txt"))
    annotation = annotate(tmp_path, source, 1, 4, SemanticOptions(**options))
    assert names(annotation) == ["ground", "roof"]
    assert annotation.targets[1].ignore == rle.encode(np.array([[False, False, True, True]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "line 2 is empty, expected one name per line"),
        (b"a\nb\na\n", "line 3 has 'a' again"),
        (b"", "file is empty"),
        (b"\xff\xfe", "text is not UTF-8"),
        ("\n".join(map(str, range(300))).encode(), "has 300 names, expected 1 to 256"),
        (None, "no such file; expected the names of the labels in it, one name per line"),
    ],
)
def test_an_unusable_file_of_names_is_said_once(tmp_path: Path, content: bytes | None, message: str) -> None:
    png(tmp_path / "annotations/all/a.png", full(0))
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        list_sources(data("own"), Folders(tmp_path), "all")


def test_dropping_a_name_that_is_none_is_an_error(tmp_path: Path) -> None:
    png(tmp_path / "train2017/000000000009.png", full(0))
    with pytest.raises(DatasetError, match=r"drop: found 'persn'.*did you mean 'person'"):
        list_sources(data("cocostuff", drop=["persn"]), Folders(tmp_path), "train")


def test_coco_stuff_is_known_by_number_and_its_splits_by_both_names(tmp_path: Path) -> None:
    png(tmp_path / "train2017/000000000009.png", full(0))
    png(tmp_path / "train2017/000000000007.png", full(0))
    jpeg(tmp_path / "train2017/000000000007.jpg", *SIZE)
    (tmp_path / "train2017/.000000000001.png").write_text("x")
    wanted = [
        Source(number, f"train2017/{number}.jpg", (f"train2017/{number}.png",))
        for number in ("000000000007", "000000000009")
    ]
    assert list_sources(data("cocostuff"), Folders(tmp_path), "train") == wanted
    assert list_sources(data("cocostuff"), Folders(tmp_path), "train2017") == wanted
    png(tmp_path / "train2017/nine.png", full(0))
    with pytest.raises(DatasetError, match="'nine' is not a file name of COCO's"):
        list_sources(data("cocostuff"), Folders(tmp_path), "train")


def test_a_picture_without_a_label_map_has_no_annotation(tmp_path: Path) -> None:
    png(tmp_path / "annotations/training/a.png", full(1))
    jpeg(tmp_path / "images/training/a.jpg", *SIZE)
    jpeg(tmp_path / "images/training/b.jpg", *SIZE)
    a, b = list_sources(data("ade20k"), Folders(tmp_path), "train")
    assert (a.annotations, b.annotations) == (("annotations/training/a.png",), ())
    with pytest.raises(ImageFailure, match="no annotation: expected a label map"):
        annotate(tmp_path, b, *SIZE)


@pytest.mark.parametrize(
    "files",
    [
        ["index_ade20k.pkl", "images/ADE/training/urban/street/ADE_train_1_seg.png"],
        ["images/training/a/abbey/ADE_train_1_seg.png"],
        ["annotations/training/ADE_train_1_seg.png"],
    ],
)
def test_the_full_ade20k_is_refused_by_name(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    with pytest.raises(DatasetError, match=r"the full ADE20K.*expected SceneParsing150, ADEChallengeData2016.zip"):
        list_sources(data("ade20k"), Folders(tmp_path), "train")
    rgb = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(ImageFailure, match="8 bits in RGB.*full ADE20K"):
        read(tmp_path, rgb, SemanticOptions())


def test_a_missing_folder_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "training/v1.2/labels").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no folder training/v2.0/labels in .*\(folders in .*: training\)"):
        list_sources(data("mapillary"), Folders(tmp_path), "train")
    with pytest.raises(DatasetError, match="leads outside"):
        list_sources(data("cocostuff"), Folders(tmp_path), "..")
    (tmp_path / "val2017").mkdir()
    with pytest.raises(DatasetError, match="no label maps in"):
        list_sources(data("cocostuff"), Folders(tmp_path), "val")


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (full(151), SemanticOptions(), r"value 151 \(48 pixels\) has no name in ade20k, expected values from 0 to 150"),
        (full(255), SemanticOptions(), "value 255 .* has no name in ade20k"),  # one was subtracted already
        (full(182), COCO, "value 182 .* has no name in cocostuff"),
    ],
)
def test_a_value_without_a_name_is_named(tmp_path: Path, values: Any, options: SemanticOptions, message: str) -> None:
    with pytest.raises(ImageFailure, match=f"^map.png: {message}"):
        read(tmp_path, values, options)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: png(path, full(0).astype(np.uint16)), "PNG of 16 bits in gray"),
        (lambda path: png(path, np.zeros((*SIZE, 3), np.uint8)), "PNG of 8 bits in RGB"),
        (lambda path: png(path, np.zeros((*SIZE, 4), np.uint8)), "PNG of 8 bits in RGB with alpha"),
        (lambda path: raw_png(path, 8, 6, 4, 0, b"\0\1\2\3\4" * 6), "PNG of 4 bits in gray"),
        (lambda path: raw_png(path, 50_000, 50_000, 8, 0, b""), "cannot be decoded|50000 x 50000"),
        (lambda path: raw_png(path, 3_000, 3_000, 8, 0, b""), "has 3000 x 3000 px, the upright image 8 x 6"),
        (lambda path: raw_png(path, 8, 6, 8, 0, b"\0" * 20), "cannot be decoded"),
        (lambda path: path.write_bytes(b"no picture"), "cannot be decoded: not a PNG"),
        (lambda path: path.write_bytes(b""), "file is empty"),
        (lambda path: None, "no such file"),
        (lambda path: png(path, np.zeros((6, 7), np.uint8)), "the label map has 7 x 6 px, the upright image 8 x 6 px"),
    ],
)
def test_what_is_no_label_map_of_the_image_is_a_failure(
    tmp_path: Path, write: Callable[[Path], Any], message: str
) -> None:
    write(tmp_path / "map.png")
    with pytest.raises(ImageFailure, match=f"^map.png: .*({message})"):
        annotate(tmp_path, Source("x", "x.jpg", ("map.png",)), *SIZE, COCO)


def test_paths_stay_inside_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(ImageFailure, match="leads outside"):
        annotate(tmp_path, Source("x", "x.jpg", ("../map.png",)), *SIZE, COCO)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_map_made_before_exif_is_turned_with_its_image(tmp_path: Path, orientation: int) -> None:
    values = np.zeros((4, 7), np.uint8)
    values[0, :3] = 2
    png(tmp_path / "map.png", values)
    jpeg(tmp_path / "x.jpg", 4, 7, orientation)
    annotation = annotate(tmp_path, Source("x", "x.jpg", ("map.png",)), 7, 4, COCO)
    assert annotation.targets[1].segmentation == rle.encode(oriented(values, orientation) == 2)
    assert annotation.notes == (f"label map made before EXIF orientation {orientation}, turned with the image",)


def test_swapped_sizes_without_a_reason_are_a_failure(tmp_path: Path) -> None:
    png(tmp_path / "map.png", np.zeros((4, 7), np.uint8))
    jpeg(tmp_path / "held/x.jpg", 7, 4, 3)
    with pytest.raises(ImageFailure, match="no EXIF orientation of the image explains the swap"):
        annotate(tmp_path, Source("x", "x.jpg", ("map.png",)), 7, 4, COCO, tmp_path / "held/x.jpg")


@settings(max_examples=40, deadline=None)
@given(shown=st.sets(st.integers(1, 150), min_size=1, max_size=6), asked=st.integers(0, 160), name=st.text(min_size=1))
def test_labels_that_are_not_shown_are_asked_as_false_premises(
    tmp_path_factory: pytest.TempPathFactory, shown: set[int], asked: int, name: str
) -> None:
    root = tmp_path_factory.mktemp("maps")
    png(root / "map.png", np.array([sorted(shown)], np.uint8))

    def annotated(absent: int) -> Annotation:
        options = SemanticOptions(absent=absent)
        return annotate(root, Source(name, "x.jpg", ("map.png",)), 1, len(shown), options)

    found = annotated(asked)
    true, false = found.targets[: len(shown)], found.targets[len(shown) :]
    assert true == annotated(0).targets
    assert found.instances == annotated(0).instances
    assert found == annotated(asked)
    said = {target.texts[0] for target in true}
    drawn = [target.texts[0] for target in false]
    assert len(set(drawn)) == len(drawn) == min(asked, 150 - len(shown))
    assert not said & set(drawn)
    assert all(target.absent and not target.instances and not rle.area(target.segmentation) for target in false)
    assert {target.correction for target in false} <= {*said, None}
    assert len({target.target_id for target in found.targets}) == len(found.targets)


def test_what_is_void_or_dropped_is_never_called_absent_and_half_are_corrected(tmp_path: Path) -> None:
    options = SemanticOptions(labels="cocostuff", drop=("sky",), absent=256)
    asked = {text: target.correction for target in read(tmp_path, full(0), options).targets for text in target.texts}
    assert not [text for text in asked if "-" in text or text == "sky"]
    assert len(asked) == 182 - 28 - 1
    corrected = [correction for correction in asked.values() if correction]
    assert set(corrected) == {"person"}
    assert 0.4 < len(corrected) / len(asked) < 0.66


def test_a_map_of_void_alone_has_no_false_premise_either(tmp_path: Path) -> None:
    assert not read(tmp_path, full(255), SemanticOptions(labels="cocostuff", absent=3)).targets


def test_options_stand_in_the_entry_and_are_part_of_what_is_read(tmp_path: Path) -> None:
    entry = data("cocostuff", drop=["sky"])
    assert reading(entry) == {"format": "semantic", "labels": "cocostuff", "drop": ["sky"]}
    assert reading(data("ade20k")) == {"format": "semantic"}
    assert loader(entry).annotate is annotate
    with pytest.raises(ValueError, match="labels"):
        data("pascal")


def data(labels: str, **options: Any) -> Any:
    return data_params(
        {"format": "semantic", "images": "x", "root": "x", "splits": ["train"], "labels": labels, **options}
    )
