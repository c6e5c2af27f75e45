"""How often a command lists a data set whose annotations are one file, and how often it parses that file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lending import rows
from written_coco import annotation, category, image, square, write, write_picture

import stages.digests
from pipeline import entries
from stages import listings
from stages.datasets import coco
from stages.datasets.once import Once

NUMBERS = (9, 12, 25)


@pytest.fixture
def lent(empty: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data set of pictures, and two that borrow them and are files in COCO's form."""
    monkeypatch.setattr(stages.digests, "SETTLED_NS", -1)
    for number in (*NUMBERS, 30):
        write_picture(empty.folder / f"coco/train2017/{number:012d}.jpg")
    data: dict[str, Any] = {
        "coco": {"format": "images", "images": "coco", "ids": "coco", "splits": ["all"], "only": ["one", "other"]}
    }
    for name in ("one", "other"):
        ask(empty, name, *NUMBERS)
        data[name] = {"format": "coco", "images": "coco", "ids": "coco", "splits": ["train"]}
    values = empty.values
    values["data"] = {name: {"root": str(empty.folder / name), **entry} for name, entry in data.items()}
    values |= {"means": {}, "proposers": {}}
    values["train"] |= {"train": ["one/train"], "proposer": None}
    values["embed"] |= {"mask_encoders": [], "image_encoders": [], "sam_features": []}
    empty.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return empty


def ask(project: Any, name: str, *numbers: int) -> Path:
    """The file of a data set that asks about pictures of these numbers."""
    images = [image(number, f"train2017/{number:012d}.jpg") for number in numbers]
    things = [annotation(number, number, 1, square(1, 1)) for number in numbers]
    path = project.folder / name / "train.json"
    write(path.parent, images, things, [category(1, "cat")], path.name)
    return path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders of the files that were parsed, each at most once in a command."""
    found: list[Path] = []
    real = coco._parse

    def parse(root: Path, files: Any, options: Any) -> Any:
        found.append(root)
        return real(root, files, options)

    monkeypatch.setattr(coco, "_parse", parse)
    return found


def command(project: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """As in a process of its own: nothing is known yet."""
    monkeypatch.setattr(coco, "_ONCE", Once(coco._parse))
    stages.digests.digests_in.cache_clear()
    done = project.run(*arguments)
    assert done.code == 0, done.out + done.err
    return done


def test_a_file_is_parsed_where_it_is_indexed_alone(
    lent: Any, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    command(lent, monkeypatch, "index")
    assert sorted(path.name for path in parsed) == ["one", "other"]
    parsed.clear()
    for name in ("index", "info", "extract --dry-run", "verify --complete"):
        command(lent, monkeypatch, *name.split())
    assert not parsed
    ask(lent, "one", *NUMBERS, 30)
    found = command(lent, monkeypatch, "info", "--json", "--data", "one").json()["splits"]["one/train"]
    assert "not in its index yet" in found["remark"]
    assert [path.name for path in parsed] == ["one"]
    command(lent, monkeypatch, "index")
    assert [row["image_id"] for row in rows(lent, "one/images/train")] == [f"{each:012d}" for each in (*NUMBERS, 30)]


@pytest.mark.parametrize("name", ["info", "extract --dry-run"])
def test_a_data_set_is_listed_once_in_a_look(lent: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    command(lent, monkeypatch, "index")
    listed: list[str] = []
    real = listings.list_sources

    def counted(data: Any, folders: Any, split: str, below: Path) -> Any:
        listed.append(folders.folders[0].name)
        return real(data, folders, split, below)

    monkeypatch.setattr(listings, "list_sources", counted)
    command(lent, monkeypatch, *name.split())
    assert sorted(listed) == ["coco", "one", "other"]


def test_tables_are_read_where_an_image_id_is_in_several_splits_alone(
    lent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries.Look, "sha256", None)  # would fail
    command(lent, monkeypatch, "index")
    assert len(rows(lent, "other/images/train")) == len(NUMBERS)
