"""What a data set lists is remembered, and asked for again whenever anything changed that it was made of."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written_coco
import written_llmseg40k
import written_reasonseg_plus
import written_refer
import written_vqa

import stages.digests
from stages import datasets, listings
from stages.datasets import data_params
from stages.datasets.base import DatasetError, Source
from store.read.folders import Folders

Calls = list[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The splits that were listed from their files."""
    found: Calls = []
    real = datasets.list_sources

    def counted(data: Any, folders: Folders, split: str) -> list[Source]:
        found.append(split)
        return real(data, folders, split)

    monkeypatch.setattr(datasets, "list_sources", counted)
    monkeypatch.setattr(stages.digests, "SETTLED_NS", -1)
    return found


def params(root: Path, form: str = "coco", **options: Any) -> Any:
    return data_params({"format": form, "images": "pictures", "root": str(root), "splits": ["train"], **options})


def write(root: Path, *names: str, split: str = "train") -> Path:
    """A file in COCO's form that lists pictures of these names."""
    images = [written_coco.image(number, name) for number, name in enumerate(names, start=1)]
    things = [written_coco.annotation(1, 1, 1, written_coco.square(5, 5))]
    root.mkdir(exist_ok=True)
    path = root / f"{split}.json"
    path.write_text(
        json.dumps({"images": images, "annotations": things, "categories": [written_coco.category(1, "cat")]})
    )
    return path


def ids(root: Path, cache: Path, split: str = "train", **options: Any) -> list[str]:
    found = listings.list_sources(params(root, **options), Folders(root), split, cache)
    return [source.image_id for source in found]


def test_it_is_listed_once_as_long_as_nothing_changes(tmp_path: Path, calls: Calls) -> None:
    write(tmp_path / "data", "a.jpg", "b.jpg")
    for _ in range(3):
        assert ids(tmp_path / "data", tmp_path / "cache") == ["a", "b"]
    assert calls == ["train"]


FORMATS: dict[str, dict[str, Any]] = {
    "coco": {},
    "refer": {},
    "grefer": {},
    "vqa": {"ids": "coco"},
    "llmseg40k": {},
    "reasonseg_plus": {},
}


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_kept_is_what_the_format_lists(tmp_path: Path, calls: Calls, form: str) -> None:
    root = tmp_path / "data"
    mask = np.ones((8, 8), bool)
    name = "000000000007.jpg"
    if form == "coco":
        write(root, name, "möwe.jpg")
    elif form in ("refer", "grefer"):
        written_refer.write_instances(root, [written_refer.thing(1, 7, [written_refer.SQUARE])])
        refs = [written_refer.ref(1, 7, 1 if form == "refer" else [1], "the left one")]
        written_refer.write_refs(root, refs, "refs(unc).p" if form == "refer" else "grefs(unc).json")
    elif form == "vqa":
        written_vqa.write(root, [written_vqa.record(1, name, "what?", "that")])
    elif form == "llmseg40k":
        written_llmseg40k.write(root, "train", {name: [written_llmseg40k.pair("what?", "that", mask)]})
    else:
        root.mkdir()
        row = {"image_info": {"file_name": f"train2017/{name}"}, "file_name": f"train2017/{name}"}
        written_reasonseg_plus.write(root / "MUSE_train.json", [row])
    data = params(root, form, **FORMATS[form])
    want = datasets.list_sources(data, Folders(root), "train")
    calls.clear()
    found = [listings.list_sources(data, Folders(root), "train", tmp_path / "cache") for _ in range(2)]
    assert found == [want, want]
    assert calls == ["train"]


def test_a_changed_file_is_read_again_whatever_its_size_and_time(tmp_path: Path, calls: Calls) -> None:
    path = write(tmp_path / "data", "a.jpg")
    assert ids(tmp_path / "data", tmp_path / "cache") == ["a"]
    before = path.stat()
    path.write_text(path.read_text().replace("a.jpg", "c.jpg"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert ids(tmp_path / "data", tmp_path / "cache") == ["c"]
    other = write(tmp_path / "other", "d.jpg")
    other.replace(path)
    assert ids(tmp_path / "data", tmp_path / "cache") == ["d"]
    assert len(calls) == 3


def test_options_and_splits_have_listings_of_their_own(tmp_path: Path, calls: Calls) -> None:
    root, cache = tmp_path / "data", tmp_path / "cache"
    for split in ("train", "val"):
        write(root, f"{split}2017/000000000007.jpg", split=split)
    for _ in range(2):
        assert ids(root, cache) == ["train2017/000000000007"]
        assert ids(root, cache, ids="coco") == ["000000000007"]
        assert ids(root, cache, "val") == ["val2017/000000000007"]
    assert calls == ["train", "train", "val"]


def test_other_code_lists_again(tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data", "a.jpg")
    ids(tmp_path / "data", tmp_path / "cache")
    monkeypatch.setattr(listings, "code_digest", lambda: "another")
    ids(tmp_path / "data", tmp_path / "cache")
    assert calls == ["train", "train"]


def test_a_file_of_higher_rank_is_seen(tmp_path: Path, calls: Calls) -> None:
    """Of gRefCOCO the pickle counts where both files are there."""
    root, cache = tmp_path / "data", tmp_path / "cache"
    written_refer.write_instances(root, [written_refer.thing(1, 7, [written_refer.SQUARE])])
    written_refer.write_refs(root, [written_refer.ref(1, 7, [1], "one")], "grefs(unc).json")
    data = params(root, "grefer")
    assert listings.list_sources(data, Folders(root), "train", cache)[0].image_id == "000000000007"
    written_refer.write_refs(root, [written_refer.ref(1, 9, [-1], "one")], "grefs(unc).p")
    assert listings.list_sources(data, Folders(root), "train", cache)[0].image_id == "000000000009"


def test_pictures_are_always_looked_for(tmp_path: Path, calls: Calls) -> None:
    root = tmp_path / "data"
    root.mkdir()
    data = params(root, "images")
    for number, name in enumerate("ab", start=1):
        written_coco.write_picture(root / f"{name}.jpg")
        assert len(listings.list_sources(data, Folders(root), "all", tmp_path / "cache")) == number
    assert not (tmp_path / "cache").exists()


def test_a_file_that_may_still_be_written_is_not_kept(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.digests, "SETTLED_NS", 10**12)
    write(tmp_path / "data", "a.jpg")
    for _ in range(2):
        ids(tmp_path / "data", tmp_path / "cache")
    assert calls == ["train", "train"]
    assert not (tmp_path / "cache").exists()


def _sealed(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-9],
        lambda data: data.replace(b'"a"', b'"z"'),
        lambda data: b"\xff" * 80,
        lambda data: _sealed(b"[]"),
        lambda data: _sealed(b'{"key": 1}'),
        lambda data: _sealed(b"not JSON"),
    ],
)
def test_a_torn_or_foreign_file_is_not_read(tmp_path: Path, calls: Calls, damage: Any) -> None:
    write(tmp_path / "data", "a.jpg")
    ids(tmp_path / "data", tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert ids(tmp_path / "data", tmp_path / "cache") == ["a"]
    assert path.read_bytes() == whole
    assert calls == ["train", "train"]


def test_without_a_cache_folder_it_is_listed_each_time(tmp_path: Path, calls: Calls) -> None:
    write(tmp_path / "data", "a.jpg")
    (tmp_path / "cache").write_text("a file")
    for _ in range(2):
        assert ids(tmp_path / "data", tmp_path / "cache") == ["a"]
    assert calls == ["train", "train"]


def test_a_data_set_that_cannot_be_listed_says_so_each_time(tmp_path: Path, calls: Calls) -> None:
    path = write(tmp_path / "data", "a.jpg")
    path.write_text("{}")
    for _ in range(2):
        with pytest.raises(DatasetError, match="'images' is missing"):
            ids(tmp_path / "data", tmp_path / "cache")
    path.unlink()
    with pytest.raises(DatasetError, match="no file"):
        ids(tmp_path / "data", tmp_path / "cache")


def test_commands_may_list_at_once(tmp_path: Path, calls: Calls) -> None:
    names = [f"{number:03d}.jpg" for number in range(500)]
    write(tmp_path / "data", *names)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ids(tmp_path / "data", tmp_path / "cache"), range(24)))
    assert all(each == [name.removesuffix(".jpg") for name in names] for each in found)
    (path,) = (tmp_path / "cache").iterdir()
    check, _, data = path.read_bytes().partition(b"\n")
    assert check.decode() == hashlib.sha256(data).hexdigest()
