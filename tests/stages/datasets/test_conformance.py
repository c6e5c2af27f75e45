"""What every format with annotations promises, on a small data set of each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_content
import written_hub
import written_semantic

from stages.datasets import FORMATS, data_params, expected, list_sources, loader
from stages.datasets.base import Annotation, DatasetError, Source
from stages.images import ImageFailure
from store import rle
from store.read.folders import Folders


@dataclass(frozen=True)
class Written:
    """A data set on disk: its entry in section ``data`` but for the root, and height and width of its pictures, px."""

    entry: Mapping[str, Any]
    split: str
    size_px: tuple[int, int]


def files(
    root: Path, entry: Mapping[str, Any], split: str, size_px: tuple[int, int], content: Mapping[str, str]
) -> Written:
    """Write a data set of these files; a picture is an empty one, as no format reads pixels."""
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return Written(entry, split, size_px)


def of_many_images(name: str, root: Path) -> Written:
    case = test_content.CASES[name]
    test_content.write(root, case.files)
    large = {"coco": (40, 50), "vqa": (40, 50), "questions": (40, 50), "refer": (48, 64), "grefer": (48, 64)}
    return Written(case.options, "train", large.get(name, (5, 7)))


def reasonseg(root: Path) -> Written:
    shapes = [
        {"label": "target", "points": [[0, 0], [4, 0], [4, 4]]},
        {"label": "ignore", "points": [[5, 5], [9, 9], [5, 9]]},
    ]
    annotation = {"shapes": shapes, "text": ["what waits?"], "is_sentence": True}
    return files(
        root,
        {"format": "reasonseg"},
        "val",
        (10, 12),
        {"val/a.jpg": "", "val/a.json": json.dumps(annotation), "val/b.jpg": ""},
    )


def hub(root: Path) -> Written:
    mask = np.arange(80).reshape(8, 10) % 3 == 0
    written_hub.write(root, "val", [written_hub.row("a.jpg", mask), written_hub.row("b.jpg", ~mask)])
    return Written({"format": "reasonseg_hub"}, "val", (8, 10))


def semantic(root: Path) -> Written:
    values = np.array([[0, 0, 1, 3], [2, 1, 1, 0]], np.uint8)
    written_semantic.png(root / "annotations/training/a.png", values)
    written_semantic.jpeg(root / "images/training/a.jpg", 2, 4)
    return Written({"format": "semantic"}, "training", (2, 4))


WRITTEN: dict[str, Callable[[Path], Written]] = {
    "reasonseg": reasonseg,
    "reasonseg_hub": hub,
    "semantic": semantic,
    **{name: partial(of_many_images, name) for name in test_content.CASES},
}
"""Format -> writes a small data set of it into a folder."""


def test_there_is_a_data_set_of_every_format() -> None:
    assert WRITTEN.keys() == {name for name, line in FORMATS.items() if line.annotated}


@dataclass(frozen=True)
class Listed:
    """A data set of a format, and its pictures."""

    written: Written
    root: Path
    data: Any
    sources: list[Source]

    def annotate(self, source: Source) -> Annotation:
        return loader(self.data).annotate(self.root, source, *self.written.size_px, self.data, self.root / "no picture")


@pytest.fixture(params=WRITTEN)
def listed(request: pytest.FixtureRequest, tmp_path: Path) -> Listed:
    root = tmp_path / "set"
    root.mkdir()
    written = WRITTEN[request.param](root)
    data = data_params({"images": "x", **written.entry, "root": str(root), "splits": [written.split]})
    return Listed(written, root, data, list_sources(data, Folders(root), written.split))


def test_pictures_are_listed_in_one_order_under_names_of_their_own(listed: Listed) -> None:
    names = [source.image_id for source in listed.sources]
    assert len(set(names)) == len(names) > 0
    assert list_sources(listed.data, Folders(listed.root), listed.written.split) == listed.sources
    for source in listed.sources:
        assert all((listed.root / file).is_file() for file in source.annotations)
        assert ".." not in source.path
        assert not source.path.startswith("/")


def test_a_split_that_is_not_there_is_named(listed: Listed) -> None:
    with pytest.raises(DatasetError, match="elsewhere"):
        list_sources(listed.data, Folders(listed.root), "elsewhere")


def test_what_it_needs_is_said_before_it_is_there(listed: Listed, tmp_path: Path) -> None:
    said = expected(listed.data, "annotations alone", listed.written.split)
    assert all(each.found(listed.root) for each in said if each.needed)
    assert not any(each.found(tmp_path / "nothing") for each in said)


def test_masks_are_in_the_frame_of_the_picture_and_say_the_same_twice(listed: Listed) -> None:
    height, width = listed.written.size_px
    annotated = [source for source in listed.sources if source.annotations]
    found = [listed.annotate(source) for source in annotated]
    assert [listed.annotate(source) for source in reversed(annotated)] == found[::-1]
    assert any(annotation.targets for annotation in found)
    for annotation in found:
        drawn = [rle.decode(instance.segmentation, height, width) for instance in annotation.instances]
        assert all(mask.any() for mask in drawn)
        assert len({target.target_id for target in annotation.targets}) == len(annotation.targets)
        for target in annotation.targets:
            answer, ignore = (rle.decode(counts, height, width) for counts in (target.segmentation, target.ignore))
            assert target.texts
            assert all(target.texts)
            assert not (answer & ignore).any()
            assert not (target.absent and answer.any())
            meant = np.any([drawn[number] for number in target.instances], axis=0) if target.instances else False
            np.testing.assert_array_equal(answer, meant & ~ignore)


def test_a_picture_without_annotation_fails_with_a_reason(listed: Listed) -> None:
    for source in listed.sources:
        if not source.annotations:
            with pytest.raises(ImageFailure):
                listed.annotate(source)
