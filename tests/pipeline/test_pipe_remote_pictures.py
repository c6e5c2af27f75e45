"""Pictures in a bucket: the bytes of a store whose pictures lie in a folder, and the same limits and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import StoreError, open_split
from store.storage.listing import files_below
from store.storage.mounts import storage_of
from store.storage.objects import read_object, replace_object
from tests.s3 import Server


def configure(project: Any, root: str, store: Path, **options: Any) -> None:
    data = {"photos": {"format": "images", "images": "photos", "splits": ["all"], **options, "root": root}}
    project.configure(data=data, means={}, store=str(store), run__max_failures=9, train__train=["photos/all"])


def content(store: Path) -> dict[str, bytes]:
    paths = [path.relative_to(store) for path in files_below(store)]
    return {path.as_posix(): read_object(store / path) for path in paths if "log" not in path.parts}


@pytest.fixture
def pictures(empty: Any) -> Any:
    """A folder of pictures, with some files that are not pictures."""
    for number, name in enumerate(("ant", "bee", "cat")):
        empty.add_image("a", name, number)
    empty.add_image("b", "huge", 3, size=(400, 300))
    (empty.data / "a/void.jpg").write_bytes(b"")
    (empty.data / "a/cut.jpg").write_bytes((empty.data / "a/ant.jpg").read_bytes()[:200])
    (empty.data / "a/.hidden.jpg").write_bytes(b"x")
    (empty.data / "a/notes.txt").write_text("x")
    return empty


def test_a_bucket_of_pictures_gives_the_bytes_of_a_folder(server: Server, pictures: Any) -> None:
    root = f"s3://{server.bucket()}/photos"
    for path in files_below(pictures.data):
        replace_object(Path(root) / path.relative_to(pictures.data), path.read_bytes())
    stores = {}
    for where, name in ((str(pictures.data), "here"), (root, "there")):
        stores[name] = pictures.folder / name
        configure(pictures, where, stores[name], max_pixels=10_000)
        for command in ("index", "extract --stage masks"):
            done = pictures.run(*command.split())
            assert done.code == 0, done.err
        assert "up to date" in pictures.run("index").out
    assert content(stores["there"]) == content(stores["here"])

    split = open_split(stores["there"], "photos", "all", root)
    here = open_split(stores["here"], "photos", "all", pictures.data)
    assert {record.error for record in split} > {
        "file is empty (0 bytes)",
        "400 x 300 px are more than the 10000 px allowed",
    }
    for record, other in zip(split, here, strict=True):
        if record.status == "ok":
            np.testing.assert_array_equal(record.image(), other.image())

    replace_object(Path(root) / "a/ant.jpg", (pictures.data / "a/cat.jpg").read_bytes())
    with pytest.raises(StoreError, match=f"^{root}/a/ant.jpg is not the file that was indexed"):
        split["a/ant"].image()
    storage_of(Path(root)).delete(Path(root) / "a/bee.png")
    with pytest.raises(StoreError, match=f"^no file {root}/a/bee.png: images_root='{root}' holds no such file"):
        split["a/bee"].image()
    done = pictures.run("extract", "--stage", "embed")
    assert (done.code, "a/bee.png changed since it was indexed: no such file in s3://" in done.err) == (2, True), (
        done.err
    )


def test_what_cannot_be_read_is_said(server: Server, pictures: Any) -> None:
    bucket = server.bucket()
    configure(pictures, f"s3://{bucket}/nothing", pictures.store)
    done = pictures.run("index")
    assert (done.code, f"no folder s3://{bucket}/nothing" in done.err) == (2, True), done.err
    annotated = {"format": "reasonseg", "splits": ["train"]}
    for root, options, expected in (
        ("https://host/photos", {}, "expected a folder or one of s3://, gs://, az://"),
        (f"s3://{bucket}/x", annotated, "pictures may lie in an object store, with format images"),
    ):
        configure(pictures, root, pictures.store, **options)
        done = pictures.run("index")
        assert (done.code, expected in done.err) == (2, True), done.err
