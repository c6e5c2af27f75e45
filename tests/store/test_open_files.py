"""Open files: no more than the process may have, and none that outlive their split."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store, write_images, write_vectors

from store import open_split
from store.read import open_files

ROOT = Path(__file__).parents[2]
X = "mask_embeddings/sam/x"
SHARDS = 50


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """One image per shard: more shards than the tests allow files."""
    return full_store(tmp_path_factory.mktemp("full"), images=SHARDS, shard_images=1)


def descriptors(below: Path) -> int:
    """How many of this process's descriptors are files below a folder."""
    links = Path("/proc/self/fd")
    if not links.exists():
        pytest.skip("needs /proc")
    found = 0
    for link in links.iterdir():
        try:
            found += str(link.readlink()).startswith(str(below))
        except OSError:  # that of the listing itself
            continue
    return found


START = """
import os, resource, signal, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from store import open_split
signal.alarm(90)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
X = "mask_embeddings/sam/x"
FIELDS = ["targets.texts", "masks.segmentation"]

def limit(files):
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))

def opened():
    return open_split(sys.argv[1], "d", "val")

def whole(batches):
    assert [image for batch in batches for image in batch["image_index"].tolist()] == list(range(50))

def fill(leave):
    '''Open files until only some descriptors are left.'''
    kept = []
    while True:
        try:
            kept.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            break
    for descriptor in kept[:leave]:
        os.close(descriptor)
"""

SCRIPTS = {
    "few files": """
limit(60)
splits = [opened() for _ in range(3)]
for threads in (0, 1, 4):
    for split in splits:
        whole(split.stream([X, *FIELDS], 4, threads=threads))
assert len(os.listdir("/proc/self/fd")) < 40 if os.path.exists("/proc/self/fd") else True
""",
    "a limit that sinks": """
split = opened()
whole(split.stream([X, *FIELDS], 4))
limit(40)
whole(split.stream([X, *FIELDS], 4))
os.close(os.dup(0))
""",
    "somebody else has nearly all": """
limit(60)
split = opened()
whole(split.stream([X, *FIELDS], 4))
fill(leave=2)
whole(split.stream([X, *FIELDS], 4, threads=0))
""",
    "workers": """
limit(60)
from store.torch import loader
split = opened()
whole(split.stream([X, *FIELDS], 4))
whole(loader(split.stream([X, *FIELDS], 4), num_workers=2, multiprocessing_context="fork"))
whole(split.stream([X, *FIELDS], 4))
""",
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", SCRIPTS)
def test_a_small_limit_of_open_files_is_kept(known: Known, what: str) -> None:
    command = [sys.executable, "-c", START + SCRIPTS[what], str(known.store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_kept_open_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(soft: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, resource.RLIM_INFINITY))
        return open_files.most_open()

    assert limited(256) == 64
    assert limited(1024) == limited(10**6) == limited(resource.RLIM_INFINITY) == open_files.MOST
    assert limited(3) == 1
    monkeypatch.setattr(open_files, "resource", None)
    assert open_files.most_open() == open_files.MOST


def test_files_that_are_read_most_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "most_open", lambda: 3)
    rows = [np.zeros((1, 8), np.float16)] * 8
    images = write_images(tmp_path, 8, shard_images=1)
    write_vectors(tmp_path, f"d/{X}/val", rows, {"images": images}, shard_images=1)
    split = open_split(tmp_path, "d", "val")
    real, opens = os.open, list[str]()

    def counted(path: Any, *rest: Any) -> int:
        opens.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", counted)
    for image in (1, 2, 3, 4, 5, 6, 7):
        assert split[0][X].shape == (1, 8)
        assert split[image][X].shape == (1, 8)
    assert len([path for path in opens if "/c/" in path]) == 8, "that of image 0 was never closed"
    assert descriptors(tmp_path) <= 3


def test_the_limit_is_looked_up_when_a_file_is_opened_not_at_every_image(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, looked = open_split(known.store, "d", "val"), list[int]()
    limit = open_files.most_open()
    monkeypatch.setattr(open_files, "most_open", lambda: looked.append(1) or limit)
    split[0][X]
    assert looked
    looked.clear()
    for _ in range(5):
        split[0][X]
    assert not looked


def test_no_file_outlives_its_split(known: Known) -> None:
    before = descriptors(known.store)
    split = open_split(known.store, "d", "val")
    other = open_split(known.store, "d", "val")
    list(split.stream([X], threads=0))
    other[0][X]
    assert descriptors(known.store) > before + 1
    del split
    gc.collect()
    assert descriptors(known.store) == before + 1


def test_a_closed_split_holds_no_file_and_opens_them_again(known: Known) -> None:
    before = descriptors(known.store)
    with open_split(known.store, "d", "val") as split:
        np.testing.assert_array_equal(split[0][X], known.embeddings[0])
        assert split.tables.nbytes > 0
    assert descriptors(known.store) == before
    assert split.tables.nbytes == 0
    np.testing.assert_array_equal(split[0][X], known.embeddings[0])
    assert len(split[0].masks) == len(known.masks[0])
    split.close()
    assert descriptors(known.store) == before


def test_a_split_that_was_read_can_be_sent_to_another_process(known: Known) -> None:
    """As loader workers that are not forked get it: it opens its files again there."""
    split = open_split(known.store, "d", "val", images_root=known.store)
    stream = split.stream([X, "targets.texts"], 4)
    next(iter(stream))
    assert len(split[0].masks) == len(known.masks[0])
    there = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(there.reader.splits[0][0][X], known.embeddings[0])
    assert [image for batch in there for image in batch["image_index"].tolist()] == list(range(4, SHARDS))
