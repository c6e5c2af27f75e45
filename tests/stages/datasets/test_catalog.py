"""Published data sets by their entries in the params, and the files that they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.datasets import FORMATS, data_params, expected
from stages.datasets.base import Expected
from stages.datasets.catalog import catalog, counted_as, recognise
from stages.datasets.published import PUBLISHED

SETS = Path(__file__).parents[3] / "params/sets"


def entry(**values: Any) -> Any:
    return data_params({"images": "coco", "root": "data/x", "splits": ["train"], **values})


def entries() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path.stem, name, values)
        for path in sorted(SETS.glob("*.yaml"))
        for name, values in yaml.safe_load(path.read_text())["data"].items()
        if name != "hub_pictures"  # what is unpacked, which nobody publishes
    ]


@pytest.mark.parametrize(
    ("file", "name", "values"), entries(), ids=lambda value: str(value) if isinstance(value, str) else ""
)
def test_every_set_that_has_a_params_file_is_recognised_without_its_name(file: str, name: str, values: Any) -> None:
    found = recognise(data_params(values), "mine")
    assert found is not None
    assert found.by != "its name in the params, mine, which is a hint only"


@pytest.mark.parametrize(
    ("values", "name", "title", "by"),
    [
        ({"format": "refer", "root": "a/refcoco+"}, "x", "RefCOCO+", "the name of its folder, refcoco+"),
        ({"format": "refer", "root": "a/R-refcocog", "split_by": "umd_x"}, "x", "R-RefCOCOg", "the name of its folder"),
        ({"format": "refer"}, "refcocoplus", "RefCOCO+", "its name in the params, refcocoplus, which is a hint only"),
        ({"format": "refer", "split_by": "umd"}, "refcoco_g", "RefCOCOg", "a hint only"),
        (
            {"format": "semantic", "labels": "cocostuff"},
            "refcoco",
            "COCO-Stuff (stuffthingmaps)",
            "its format and options",
        ),
        ({"format": "reasonseg_plus", "release": "mmr"}, "x", "MMR", "its format and options"),
        ({"format": "coco", "file": "a/lvis_v1_{split}.json"}, "x", "LVIS v1", "its format and options"),
        ({"format": "vqa", "file": "llava_v1_5_mix665k.json"}, "x", "LLaVA-v1.5 mix665k", "its format and options"),
        ({"format": "images", "ids": "coco", "images": "x"}, "x", "COCO's pictures", "its format and options"),
    ],
)
def test_format_and_options_come_first_then_the_folder_then_the_name(
    values: Any, name: str, title: str, by: str
) -> None:
    found = recognise(entry(**values), name)
    assert found is not None
    assert found.set.title == title
    assert by in found.by


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"format": "refer"}, "mine"),
        ({"format": "refer", "split_by": "umd", "root": "a/refcoco"}, "mine"),  # RefCOCO has no such splits
        ({"format": "semantic", "labels": "own"}, "ade20k"),
        ({"format": "coco", "file": "annotations/instances_{split}.json", "splits": ["default"]}, "coco"),  # CVAT's
        ({"format": "questions"}, "refcoco"),
        ({"format": "reasonseg"}, "demo"),
    ],
)
def test_what_does_not_fit_is_no_published_set(values: Any, name: str) -> None:
    assert recognise(entry(**values), name) is None


def test_the_catalog_names_formats_options_and_counts_that_there_are() -> None:
    for key, each in catalog().items():
        assert each.options.keys() <= FORMATS[each.format].options.model_fields.keys(), key
        assert each.title
        assert not each.url or each.url.startswith("http")
        for licence in (each.licence, each.pictures_licence):
            assert not licence or "[V]" in licence or "[S]" in licence, key
    assert {name for name, _, _ in PUBLISHED} <= {each.counts for each in catalog().values()} | {"reasonseg_hub"}


def test_scannet_is_not_to_be_passed_on() -> None:
    assert "may not be redistributed" in catalog()["reasonseg"].note


def test_splits_are_counted_under_their_published_names() -> None:
    data = entry(format="semantic", splits=["validation"])
    found = recognise(data, "x")
    assert found is not None
    assert counted_as(data, found.set, "validation") == ("ade20k", "", "val")
    google = entry(format="refer", split_by="google", root="a/refcoco")
    found = recognise(google, "x")
    assert found is not None
    assert counted_as(google, found.set, "val") == ("refcoco", "google", "val")


def paths(values: Any, name: str = "mine", split: str = "train") -> list[tuple[str, ...]]:
    return [each.paths for each in expected(entry(**values), name, split)]


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({"format": "refer"}, [("refs(unc).p",), ("instances.json",)]),
        ({"format": "semantic"}, [("annotations/training",)]),
        ({"format": "semantic", "images": "mine"}, [("annotations/training",), ("images/training",)]),
        (
            {"format": "semantic", "labels": "mapillary"},
            [("training/v2.0/labels",), ("config_v2.0.json",)],
        ),
        ({"format": "coco", "file": "a_{split}.json", "categories": "c.json"}, [("a_train.json",), ("c.json",)]),
        ({"format": "coco", "images": "mine"}, [("train.json",), ("train",)]),
        ({"format": "coco", "images": "mine", "pictures": ""}, [("train.json",)]),
        ({"format": "llmseg40k"}, [("train.json",)]),
        ({"format": "generated"}, [("train.jsonl",)]),
        ({"format": "reasonseg_plus"}, [("MUSE_train.json", "muse_train.json")]),
        ({"format": "vqa"}, [("llava_instruct_150k.json",)]),
        ({"format": "questions"}, [("train.csv", "train.jsonl", "train.json")]),
        ({"format": "reasonseg"}, [("train",), ("explanatory/train.json",)]),
        ({"format": "images", "images": "mine"}, [("train",)]),
    ],
)
def test_what_is_looked_for(values: Any, want: list[tuple[str, ...]]) -> None:
    assert paths(values) == want


def test_every_format_says_what_it_expects() -> None:
    for name in FORMATS:
        assert expected(entry(format=name), "mine", "train"), name


def test_the_first_of_several_names_is_found_and_none_outside(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (tmp_path / "outside.json").write_text("{}")
    (root / "b.json").write_text("{}")
    assert Expected("x", ("a.json", "b.json")).found(root) == root / "b.json"
    assert Expected("x", ("../outside.json",)).found(root) is None
    assert Expected("x", ("a.json",)).found(root) is None
