"""Unusual images come back as they went in; what is made to harm is a typed error, soon, and costs no memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import forge_table
from factory import LAYOUT, array_meta, full_store, small_store, vectors, write_images, write_table, write_vectors
from faults import steps_of
from pycocotools import mask as coco

from store import DamagedStoreError, RleError, StoreError, open_split, rle
from store.format.layout import column_dir, place_of
from store.format.names import with_proposer
from store.format.schema import OK
from store.write.verify import verify
from store.write.writer import begin_column

TEXT = '<script>alert(1)</script> & "quotes" \u202e\u0000 \U0001f600 \ud7ff {{7*7}} =cmd|x'


def split_of(store: Path, segmentations: list[list[str]], sizes: list[tuple[int, int]], text: str = "one") -> Any:
    """Images of these sizes with these masks, vectors of the first K_max = 32 of each, and a question."""
    same: dict[str, Any] = {"status": OK, "error": None}
    images, masks, targets = [], [], []
    for image, (own, (height, width)) in enumerate(zip(segmentations, sizes, strict=True)):
        names = {"image_index": image, "image_id": f"image{image}", "path": f"{image}.jpg", "sha256": "0" * 64}
        images.append([{**names, **same, "height_px": height, "width_px": width}])
        regions = {"segmentation": own, "bbox": [[0, 0, 1, 1]] * len(own), "area": [1] * len(own)}
        scores = {"predicted_iou": [0.5] * len(own), "stability_score": [1.0] * len(own)}
        frames = {"point_coords": [[0.5, 0.5]] * len(own), "crop_box": [[0, 0, width, height]] * len(own)}
        masks.append([{"image_index": image, **same, **regions, **scores, **frames}])
        empty = rle.union([], height, width)
        answer = {"segmentation": empty, "ignore": empty, "answer": text, "kind": text, "is_sentence": True}
        names = {"target_id": f"{image}/0", "image_index": image}
        targets.append([{**names, "instances": [], "texts": [text, ""], **answer}])
    with steps_of(store, lambda step: None):
        upstream = {"images": write_table(store, "d/images/val", images, {})}
        made = write_table(store, "d/masks/sam/val", masks, upstream)
        write_table(store, "d/targets/val", targets, upstream)
        kept = vectors([min(len(own), LAYOUT.row_shape[0]) for own in segmentations])
        write_vectors(store, "d/mask_embeddings/sam/x/val", kept, {"masks/sam": made})
    assert verify(store, ["d/val"], deep=True).problems == []
    return open_split(store, "d", "val")


def test_counts_of_masks(tmp_path: Path) -> None:
    """None, one, K_max, more than K_max: all masks are in the table, vectors of the first K_max."""
    counts = [0, 1, 16, 32, 33, 200]
    rng = np.random.default_rng(0)
    masks = [[rng.random((4, 6)) < 0.5 for _ in range(count)] for count in counts]
    split = split_of(tmp_path, [[rle.encode(mask) for mask in own] for own in masks], [(4, 6)] * len(counts))
    want = vectors([min(count, 32) for count in counts])
    for image, own in enumerate(masks):
        assert len(split[image].masks) == len(own)
        for region, mask in zip(split[image].masks, own, strict=True):
            np.testing.assert_array_equal(region.decode(), mask)
        np.testing.assert_array_equal(split[image]["mask_embeddings/sam/x"], want[image])
    batch = next(iter(split.stream(["mask_embeddings/sam/x", "masks.segmentation"], len(counts), threads=0)))
    assert batch["mask_embeddings/sam/x_mask"].sum(axis=1).tolist() == [min(count, 32) for count in counts]
    assert not batch["mask_embeddings/sam/x"][~batch["mask_embeddings/sam/x_mask"]].any(), "no fill values"


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (20_000, 20_000)], ids=str)
def test_sizes_of_images(tmp_path: Path, size: tuple[int, int]) -> None:
    """The empty mask, the full one, the first pixel and the last, and stripes; compared with pycocotools undecoded."""
    pixels = size[0] * size[1]
    runs = [[pixels], [0, pixels], [0, 1, pixels - 1], [pixels - 1, 1], [pixels // 2, pixels - pixels // 2]]
    counts = [rle.from_runs(np.array(own)) for own in runs]
    masks = open_masks(split_of(tmp_path, [counts], [size]))
    for region, own, text in zip(masks, runs, counts, strict=True):
        assert region.segmentation == text
        assert rle.area(text) == sum(own[1::2]) == coco.area(region.coco())
        assert list(rle.bbox(text, size[0])) == coco.toBbox(region.coco()).tolist() or rle.area(text) == 0
        if pixels < 10_000:
            whole = np.repeat(np.arange(len(own)) % 2 == 1, own).reshape(size, order="F")
            np.testing.assert_array_equal(region.decode(), whole)


def open_masks(split: Any) -> Any:
    return split[0].masks


def test_text_comes_back_as_it_is(tmp_path: Path) -> None:
    """Nothing is escaped, interpreted, cut or normalised: that is for whoever shows it."""
    split = split_of(tmp_path, [[]], [(4, 6)], TEXT)
    (target,) = split[0].targets
    assert (target["texts"], target["answer"], target["kind"]) == ([TEXT, ""], TEXT, TEXT)
    batch = next(iter(split.stream(["targets.texts"], 1, threads=0)))
    assert batch["targets.texts"] == [[[TEXT, ""]]]
    with steps_of(tmp_path, lambda step: None):
        write_images(tmp_path / "failed", 4, failed={2: TEXT})
    assert open_split(tmp_path / "failed", "d", "val")[2].error == TEXT


def number(value: int) -> str:
    """A number as COCO writes it."""
    text = ""
    while True:
        group, value = value & 31, value >> 5
        done = value == (-1 if group & 16 else 0)
        text += chr(48 + group + (0 if done else 32))
        if done:
            return text


@contextmanager
def little_memory() -> Iterator[None]:
    """Within this block, 200 MB more of address space than now and no byte beyond: then a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 200_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


BOMBS = {
    "2**40 pixels": number(2**40),
    "2**32 - 1 pixels": number(2**32 - 1),
    "a million empty runs": number(0) * 10**6,
    "a million runs of 2**31": number(2**31) * 3 + number(0) * 10**6,
    "a number without end": "o" * 10**6,
    "not ASCII": "é" * 10**6,
    "nothing": "",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a limit that the kernel keeps")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", BOMBS)
def test_bombs_of_run_lengths(tmp_path: Path, what: str) -> None:
    """The text is 2 MB at most; the claimed mask would be a terabyte."""
    region = split_of(tmp_path, [[BOMBS[what]]], [(4, 6)])[0].masks[0]
    small = rle.union([], 4, 6)
    uses: list[Callable[[], Any]] = [
        region.decode,
        lambda: rle.union([region.segmentation], 4, 6),
        lambda: rle.subtract(small, region.segmentation),
        lambda: rle.intersections([small], [region.segmentation]),
    ]
    for use in uses:
        with little_memory(), pytest.raises(RleError):
            use()


def parquet(table: pa.Table, record: dict[str, bytes]) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(record)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


TABLES: dict[str, Callable[[pa.Table, dict[str, bytes]], bytes]] = {
    "no table": lambda table, record: b"PAR1" + b"\xff" * 60 + b"PAR1",
    "a record in no table": lambda table, record: (
        b"PAR1"
        + b"".join(
            (footer := b"\x18\x05elisa\x18" + varint(record["elisa"]), len(footer).to_bytes(4, "little"), b"PAR1")
        )
    ),
    "nothing": lambda table, record: b"",
    "fewer rows": lambda table, record: parquet(table.slice(0, 1), record),
    "more rows": lambda table, record: parquet(pa.concat_tables([table, table]), record),
    "a field less": lambda table, record: parquet(table.drop_columns(["segmentation"]), record),
    "a field of another type": lambda table, record: parquet(
        table.set_column(table.schema.get_field_index("segmentation"), "segmentation", pa.array(range(table.num_rows))),
        record,
    ),
}


def varint(text: bytes) -> bytes:
    """A text with its length before it, as Thrift has it."""
    size, head = len(text), b""
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return head + bytes([size]) + text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", TABLES)
def test_forged_tables(tmp_path: Path, what: str) -> None:
    with steps_of(tmp_path, lambda step: None):
        full_store(tmp_path, 4)
    for name in ("masks", "targets", "instances"):
        folder = column_dir(tmp_path, place_of("d", with_proposer(name, "sam"), "val"))
        path = folder / "00000.parquet"
        good, table = path.read_bytes(), pq.read_table(path)
        forge_table(path, partial(TABLES[what], table))
        opens = partial(open_split, tmp_path, "d", "val", columns=[name])
        if what in ("no table", "nothing"):
            with pytest.raises(DamagedStoreError):
                opens()
        else:
            split = opens()
            with pytest.raises(DamagedStoreError):
                getattr(split[0], name)
            with pytest.raises(DamagedStoreError):
                next(iter(split.stream([f"{name}.segmentation"], 4, threads=0)))
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["mask_embeddings/sam/x/val", "mask_embeddings/sam/x/val/c", "images/val"])
def test_links_of_folders(tmp_path: Path, name: str) -> None:
    """Read rightly or not at all; verify names the link, and a run removes nothing behind it."""
    store, outside = tmp_path / "store", tmp_path / "outside"
    with steps_of(tmp_path, lambda step: None):
        small_store(store, [3] * 12)
        want = vectors([3] * 12)
        (store / "d" / name).rename(outside)
        (store / "d" / name).symlink_to(outside)
        before = sorted(outside.rglob("*"))
        assert verify(store, ["d/val"], deep=True).problems
        try:
            got = open_split(store, "d", "val", columns=["mask_embeddings/sam/x"])[0]["mask_embeddings/sam/x"]
            np.testing.assert_array_equal(got, want[0])
        except StoreError:
            pass
        if name != "mask_embeddings/sam/x/val":  # that is the folder that is asked for
            begin_column(column_dir(store, "d/mask_embeddings/sam/x/val"), array_meta(4, points=2))
        assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("name", ["column.json", "zarr.json", "c/0/0/0"])
def test_links_of_files(tmp_path: Path, name: str) -> None:
    with steps_of(tmp_path, lambda step: None):
        store = small_store(tmp_path / "store", [3] * 4)
    path = store / "d/mask_embeddings/sam/x/val" / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    assert verify(store, ["d/val"], deep=True).problems
    if name != "zarr.json":  # only stock readers look at it
        with pytest.raises(DamagedStoreError):
            open_split(store, "d", "val")[0]["mask_embeddings/sam/x"]
