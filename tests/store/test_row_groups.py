"""Tables that do not fit the cache of decoded tables are read by row group: the same values, and as safely, for less reading."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import plain
from factory import full_store, write_images, write_table
from memory import MemoryOpened, MemoryStorage

import store.read.column
from store import Candidates, ChangedError, DamagedStoreError, Split, open_split
from store.format import column
from store.format.layout import column_dir
from store.format.tables import ROW_GROUP_ROWS
from store.storage.mounts import mounted
from store.write.writer import finish_column

STORE, IMAGES, SHARD = Path("/memory/store"), 40, 20
TABLES = ("images", "masks", "instances", "targets", "match/targets", "match/instances")
PATH = column_dir(STORE, "d/masks/sam/val") / "00001.parquet"
X = "mask_embeddings/x"


@pytest.fixture(scope="module")
def written() -> MemoryStorage:
    storage = MemoryStorage()
    with mounted(STORE, storage):
        full_store(STORE, IMAGES, shard_images=SHARD)
    return storage


@pytest.fixture
def storage(written: MemoryStorage) -> Iterator[MemoryStorage]:
    column._column_of_version.cache_clear()
    storage = written.copy()
    with mounted(STORE, storage):
        yield storage


def opened(**how: Any) -> Split:
    return open_split(STORE, "d", "val", **how)


def overflowing() -> Split:
    """A split whose cache keeps one piece; each of its tables was found not to fit."""
    split = opened(table_cache_bytes=1)
    for image in (0, SHARD, 0):
        for name in TABLES:
            split[image].rows(name)
    return split


def order() -> list[int]:
    return random.Random(0).sample(range(IMAGES), IMAGES)


class Reads:
    """What is read of a column's files, and which pieces are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], None] = lambda piece: None) -> None:
        self.bytes, self.pieces = 0, []
        readv, whole, group = MemoryOpened.readv, store.read.column.read_table, store.read.column.read_row_group

        def counted(opened: MemoryOpened, pieces: Any, offset: int) -> int:
            done = readv(opened, pieces, offset)
            self.bytes += done
            return done

        def of_shard(folder: Any, commit: Any, *rest: Any) -> pa.Table:
            self.pieces.append((commit.shard, None))
            return whole(folder, commit, *rest)

        def of_group(folder: Any, commit: Any, fields: Any, number: int, *rest: Any) -> pa.Table:
            self.pieces.append((commit.shard, number))
            before((commit.shard, number))
            return group(folder, commit, fields, number, *rest)

        monkeypatch.setattr(MemoryOpened, "readv", counted)
        monkeypatch.setattr(store.read.column, "read_table", of_shard)
        monkeypatch.setattr(store.read.column, "read_row_group", of_group)


def test_records_are_those_of_a_cache_that_holds_all(storage: MemoryStorage) -> None:
    whole, split = opened(), opened(table_cache_bytes=1)
    in_two = 0
    for image in order():
        for name in TABLES:
            rows = split.column(name).rows(image)[1]
            in_two += rows.start // ROW_GROUP_ROWS < (rows.stop - 1) // ROW_GROUP_ROWS
            assert split[image].rows(name) == whole[image].rows(name)
        assert list(split[image].masks) == list(whole[image].masks)
        assert split[image].targets == whole[image].targets
    assert in_two, "rows of one image lie in two row groups"
    assert split.column("masks").table(1).equals(whole.column("masks").table(1)), "and a whole shard may be asked for"


@pytest.mark.parametrize(
    "how",
    [
        {"shuffle": True, "threads": 3},
        {"level": "target", "shuffle": True, "threads": 0},
        {"ragged": True, "threads": 1},
        {"level": "target", "shuffle": True, "candidates": Candidates(16, 0.95, with_gt=True)},
    ],
    ids=str,
)
def test_streams_are_those_of_a_cache_that_holds_all(storage: MemoryStorage, how: dict[str, Any]) -> None:
    names = [X, "images.path", "masks.segmentation", "masks.area", "targets.texts", "match/targets.iou"]
    tiny, whole = (opened(table_cache_bytes=cache).stream(names, 13, **how) for cache in (1, 1 << 30))
    assert [plain(batch) for batch in tiny] == [plain(batch) for batch in whole]


def test_what_fits_is_decoded_by_shard(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    split = opened(columns=["masks"])
    for image in order():
        split[image].rows("masks")
    assert sorted(reads.pieces) == [(shard, None) for shard in (0, 0, 1, 1)], "images and masks, once each"


def test_a_sample_decodes_one_row_group_and_reads_no_whole_file(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = overflowing()
    split[SHARD].rows("masks")  # held against the seal now
    split[0].rows("masks")
    reads, size = Reads(monkeypatch), len(storage.objects[PATH][0])
    split.column("masks").table_rows(SHARD + 3)
    assert reads.pieces == [(1, 0)]
    assert 0 < reads.bytes < size * 0.9
    split.column("masks").table_rows(SHARD + 15)
    assert reads.pieces == [(1, 0)], "it is at hand"
    split.column("masks").table_rows(SHARD + 16)
    assert reads.pieces == [(1, 0), (1, 1)]
    reads.bytes, reads.pieces = 0, []
    read = split.column("masks").field(1, "area", ("area",))
    assert reads.pieces == [(1, None)], "of these fields alone, nothing was given up before"
    split.column("masks").field(0, "area", ("area",))(0)
    assert split.column("masks").field(1, "area", ("area",))(17).tolist() == read(17).tolist()
    assert reads.pieces == [(1, None), (0, None), (1, 1)]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("where", ["footer", "the row group", "another row group"])
@pytest.mark.parametrize("hidden", [False, True], ids=["another token", "the same token"])
def test_a_flipped_byte_is_never_read_as_right(storage: MemoryStorage, where: str, hidden: bool) -> None:
    split, want = overflowing(), opened()[SHARD].rows("masks")
    split[SHARD].rows("masks")
    split[0].rows("masks")
    data, token = storage.objects[PATH]
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    group = metadata.row_group(int(where == "another row group"))
    at = len(data) - 30 if where == "footer" else group.column(3).data_page_offset + 40
    if hidden:
        storage.objects[PATH] = flipped(data, at), token
    else:
        storage.set(PATH, flipped(data, at))
    if hidden and where == "another row group":
        assert split[SHARD].rows("masks") == want, "nothing of it is used"
        with pytest.raises(DamagedStoreError):
            split[SHARD + 17].rows("masks")
    else:
        with pytest.raises(DamagedStoreError, match="shard 1: the bytes are not the committed ones"):
            split[SHARD].rows("masks")
    storage.objects[PATH] = data, token
    assert split[SHARD].rows("masks") == want


def test_damage_before_the_first_row_group_is_read(storage: MemoryStorage) -> None:
    split = opened(table_cache_bytes=1)
    for name in ("masks", "images"):
        split.column(name).table(0)
    data, _ = storage.objects[PATH]
    storage.set(PATH, flipped(data, len(data) // 2))
    for image in (SHARD, SHARD + 17):
        with pytest.raises(DamagedStoreError):
            split[image].rows("masks")
    del storage.objects[PATH]
    with pytest.raises(DamagedStoreError, match="the file is missing"):
        split[SHARD].rows("masks")


def test_a_shard_computed_again_meanwhile(storage: MemoryStorage) -> None:
    split, path = overflowing(), column_dir(STORE, "d/images/val") / "00001.parquet"
    want = split[SHARD].rows("images")
    split[0]
    before = dict(storage.objects)
    storage.set(path, before[path][0])
    assert split[SHARD].rows("images") == want, "put there again, as by a copy"
    split[0]
    write_images(STORE, IMAGES, SHARD, failed={SHARD + 2: "broken"})
    with pytest.raises(ChangedError, match="d/images/val was computed again"):
        split[SHARD]
    storage.objects = before
    assert split[SHARD].rows("images") == want


def test_images_without_targets(storage: MemoryStorage) -> None:
    """The last row group ends where the rows of an image without any would begin."""
    storage.objects.clear()
    images = write_images(STORE, 4, 2)
    blank = {"instances": [], "texts": ["?"], "is_sentence": False, "kind": "test", "answer": None}
    blank |= dict.fromkeys(("absent", "correction", "incomplete", "turns"))
    row = {"image_index": 0, "segmentation": "", "ignore": "", **blank}
    rows = [[{**row, "target_id": f"{image}/{number}"} for number in range(16)] for image in range(4)]
    rows[1] = rows[3] = []
    write_table(STORE, "d/targets/val", rows, {"images": images}, 2)
    for name in ("images", "targets"):
        finish_column(column_dir(STORE, f"d/{name}/val"), f"d/{name}/val")
    split = opened(table_cache_bytes=1)
    for image in (0, 2, 0, 1, 2, 3):
        assert split[image].targets == rows[image]
        assert split.batch([image], ["targets.target_id"])["targets.target_id"] == [
            [each["target_id"] for each in rows[image]]
        ]


def test_threads_that_ask_for_one_row_group_decode_it_once(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, want = overflowing(), opened()[SHARD].rows("masks")
    entered, go = threading.Event(), threading.Event()

    def before(piece: Any) -> None:
        entered.set()
        assert go.wait(20)

    split.column("masks").table_rows(0)
    reads, found = Reads(monkeypatch, before), []
    threads = [threading.Thread(target=lambda: found.append(split.column("masks").table_rows(SHARD))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert found == [want] * 3
    assert reads.pieces == [(1, 0)]


def test_threads_read_what_was_written(storage: MemoryStorage) -> None:
    whole, split = opened(), opened(table_cache_bytes=1)
    want = {(image, name): whole[image].rows(name) for image in range(IMAGES) for name in TABLES}
    wrong: list[Any] = []

    def read(seed: int) -> None:
        for image, name in random.Random(seed).sample(sorted(want), 80):
            if split[image].rows(name) != want[image, name]:
                wrong.append((image, name))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
