"""A split with every table, read as exports read it: several questions per image, empty ones, overlapping masks, ignored pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store

from stages.export import FORMATS
from stages.export.content import Asked, Contents, Item, columns_of
from stages.export.write import Summary, write_export
from stages.photographs import PictureFile
from stages.predictions import Prediction
from store import open_split, rle
from store.read.region import Region

EVERYTHING = ("masks", "instances", "targets", "predictions")


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="session")
def answers(known: Known) -> dict[str, list[Prediction]]:
    """To every question its answer as annotated; of every third question the empty mask, rejected."""
    found: dict[str, list[Prediction]] = {}
    for number, target in enumerate(target for own in known.targets for target in own):
        rejected = number % 3 == 2
        counts = None if rejected else target["segmentation"]
        found[target["target_id"]] = [Prediction(target["target_id"], 0, counts, rejected, None, "It is [SEG]")]
    return found


@pytest.fixture
def contents(known: Known, answers: dict[str, list[Prediction]]) -> Callable[..., Contents]:
    """Reads ``d/val``, whose pictures are no files: they are the bytes of their path."""

    def make(whats: Sequence[str] = EVERYTHING, needs: Sequence[str] = (), **how: Any) -> Contents:
        how = {"pictures": "none", "proposer": "sam", **how}
        opened = open_split(known.store, "d", "val")
        asked = Asked("d", "val", tuple(whats), len(opened), **how)
        assert set(columns_of(asked, needs)) <= set(opened.columns)

        def photo(row: Any) -> PictureFile:
            return PictureFile(row["path"].encode(), Path(row["path"]))

        return Contents(opened, asked, tuple(needs), answers, None if asked.pictures == "none" else photo)

    return make


@pytest.fixture
def export(contents: Callable[..., Contents]) -> Callable[..., Summary]:
    def write(to: str, folder: Path, whats: Sequence[str] = EVERYTHING, **how: Any) -> Summary:
        form = FORMATS[to]
        needs = [need for what in whats for need in form.needs.get(what, ())]
        return write_export(form, contents(whats, needs, **how), folder, {"export": to})

    return write


def _region(mask: np.ndarray, **fields: Any) -> Region:
    counts = rle.encode(mask)
    box, area = rle.bbox_and_area(counts, mask.shape[0])
    return Region({"segmentation": counts, "bbox": list(box), "area": area, **fields}, *mask.shape)


@pytest.fixture
def region() -> Callable[..., Region]:
    return _region


@pytest.fixture
def item() -> Callable[..., Item]:
    """An image of 4 x 6 px, or of the masks' size."""

    def make(image_id: str = "a", masks: Sequence[np.ndarray] | None = None, **fields: Any) -> Item:
        scores = {"predicted_iou": 0.5, "stability_score": 0.5, "point_coords": [1.0, 2.0], "crop_box": [0, 0, 6, 4]}
        regions = None if masks is None else [_region(mask, **scores) for mask in masks]
        size = masks[0].shape if masks else (4, 6)
        given = {"path": f"{image_id}.jpg", **fields}
        return Item(0, image_id, given.pop("path"), *size, masks=regions, **given)

    return make
