"""Pixels of a record: checked as the split's ``check`` says, and clear about a folder that is not the data set's."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import write_table
from PIL import Image

from store import StoreError, open_split
from store.format.schema import OK

PATHS = ["val/a.png", "val/b.png", "../outside.png", "/etc/hostname"]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A data set of two pictures below ``data``, an index of them (and of two names that lead outside) below ``store``."""
    (tmp_path / "data/val").mkdir(parents=True)
    rng = np.random.default_rng(0)
    digests = []
    for path in PATHS[:2]:
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).save(tmp_path / "data" / path)
        digests.append(hashlib.sha256((tmp_path / "data" / path).read_bytes()).hexdigest())
    index(tmp_path, [*digests, "0" * 64, "0" * 64])
    return tmp_path


def index(folder: Path, digests: list[str]) -> None:
    rows = [
        [
            {
                "image_index": k,
                "image_id": f"image{k}",
                "path": path,
                "height_px": 5,
                "width_px": 7,
                "sha256": digest,
                "status": OK,
                "error": None,
            }
        ]
        for k, (path, digest) in enumerate(zip(PATHS, digests, strict=True))
    ]
    write_table(folder / "store", "d/images/val", rows, {})


def opened(folder: Path, root: str | Path = "data", **how: Any) -> Any:
    return open_split(folder / "store", "d", "val", images_root=folder / root, **how)


def spoil(path: Path) -> None:
    """Another picture of the same size in bytes and with the same time of change, as a bit flip leaves it."""
    state, data = path.stat(), bytearray(path.read_bytes())
    data[-20] ^= 1  # the checksum of the last chunk: Pillow does not look at that of IEND
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("check", ["always", "first-touch", "never"])
def test_bytes_are_held_against_the_digest_as_check_says(
    made: Path, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, hashed, read = opened(made, check=check)[0], list[int](), list[str]()
    want = np.asarray(Image.open(made / "data/val/a.png"))
    real, real_open = hashlib.sha256, Path.open
    monkeypatch.setattr("store.read.pictures.hashlib.sha256", lambda data: (hashed.append(len(data)), real(data))[1])
    monkeypatch.setattr(
        Path, "open", lambda self, *given, **how: (read.append(str(self)), real_open(self, *given, **how))[1]
    )
    for _ in range(3):
        np.testing.assert_array_equal(record.image(), want)
    assert len(hashed) == {"always": 3, "first-touch": 1, "never": 0}[check]
    assert len([path for path in read if path.endswith("a.png")]) == 3, "once for the digest and the pixels"


@pytest.mark.parametrize("check", ["always", "first-touch", "never"])
def test_another_file_is_refused(made: Path, check: str) -> None:
    split = opened(made, check=check)
    split[0].image()
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(made / "data/val/a.png")
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(made / "data/val/b.png")
    for record in split[:2]:
        if check == "never":
            assert not record.image().any()
        else:
            with pytest.raises(
                StoreError, match=r"[ab].png is not the file that was indexed: found sha256 .*, expected"
            ):
                record.image()


def test_first_touch_looks_again_when_the_file_changed(made: Path) -> None:
    """Though size and time of change are what they were: ctime cannot be set back."""
    split = opened(made, check="first-touch")
    split[0].image()
    spoil(made / "data/val/a.png")
    with pytest.raises(StoreError, match="not the file that was indexed"):
        split[0].image()


@pytest.mark.parametrize(
    ("root", "said"), [("nowhere", "is no folder"), ("store", "holds no such file"), ("data/val/a.png", "is no folder")]
)
def test_a_wrong_folder_is_named(made: Path, root: str, said: str) -> None:
    split = opened(made, root)
    with pytest.raises(StoreError, match=rf"no file .*a.png: images_root='.*{root}' {said}; expected the folder"):
        split[0].image()


def test_a_file_that_is_gone_or_no_picture_is_named(made: Path) -> None:
    split = opened(made, check="never")
    (made / "data/val/a.png").unlink()
    with pytest.raises(StoreError, match="no file .*a.png: images_root='.*data' holds no such file"):
        split[0].image()
    (made / "data/val/a.png").mkdir()
    with pytest.raises(StoreError, match="no file .*a.png"):
        split[0].image()
    (made / "data/val/b.png").write_bytes(b"no picture")
    with pytest.raises(StoreError, match="b.png cannot be decoded"):
        split[1].image()


def test_links_are_followed_and_names_lead_nowhere_else(made: Path) -> None:
    (made / "data").rename(made / "shared")
    (made / "data/val").mkdir(parents=True)
    for path in PATHS[:2]:
        (made / "data" / path).symlink_to(made / "shared" / path)
    (made / "link").symlink_to(made / "shared")
    for root in ("data", "link"):
        assert opened(made, root)[0].image().shape == (5, 7, 3)
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(made / "outside.png")
    for number in (2, 3):
        with pytest.raises(StoreError, match="leads outside images_root"):
            opened(made, check="never")[number].image()


@pytest.mark.parametrize("check", ["always", "first-touch"])
def test_a_jpeg_that_was_indexed_without_its_end_marker_is_read(made: Path, check: str) -> None:
    path = made / "data/val/a.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path, format="JPEG")
    whole = np.asarray(Image.open(path).convert("RGB")).copy()
    path.write_bytes(path.read_bytes()[:-2])
    index(made / "later", [hashlib.sha256(path.read_bytes()).hexdigest(), *["0" * 64] * 3])
    split = open_split(made / "later/store", "d", "val", images_root=made / "data", check=check)
    for _ in range(2):
        np.testing.assert_array_equal(split[0].image(), whole)
    unchecked = open_split(made / "later/store", "d", "val", images_root=made / "data", check="never")
    with pytest.raises(StoreError, match="a.png cannot be decoded"):
        unchecked[0].image()  # nobody knows here that it was like this when it was indexed


def test_without_a_folder_or_pillow_it_says_what_to_do(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match="images_root=<the data set's folder>"):
        open_split(made / "store", "d", "val")[0].image()
    record = opened(made)[0]
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(StoreError, match="pip install pillow"):
        record.image()


def test_the_folder_can_be_given_later(made: Path) -> None:
    split = open_split(made / "store", "d", "val", check="first-touch")
    split.images_root = made / "data"
    assert split[0].image().shape == (5, 7, 3)
    split.images_root = made / "nowhere"
    with pytest.raises(StoreError, match="is no folder"):
        split[0].image()
