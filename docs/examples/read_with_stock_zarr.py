"""Prints one record of a store with zarr, pyarrow and numpy alone: nothing of this project is imported.

Needs zarr >= 3. It trusts the files: only zarr's crc32c is checked, not whether columns are finished or belong together,
as our own reader does. Run from the repository root, after `make repro`:

    .venv/bin/python docs/examples/read_with_stock_zarr.py --store data/store --dataset demo --split val --image 0

The format is described in docs/format.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import zarr


def decode_rle(counts: str, height_px: int, width_px: int) -> np.ndarray:
    """COCO's compressed run-length encoding -> bool [height_px, width_px]."""
    runs: list[int] = []
    value = shift = 0
    for code in counts.encode("ascii"):
        digit = code - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:  # the last group of a number
            if digit & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # alternating zeros and ones, column by column
    return pixels.reshape(width_px, height_px).T


def read_rows(column: Path, shard: int, image: int) -> list[dict[str, Any]]:
    """The rows of an image in a table."""
    table = pq.read_table(column / f"{shard:05d}.parquet", page_checksum_verification=True)
    return [row for row in table.to_pylist() if row["image_index"] == image]


def read_commit(column: Path, shard: int) -> dict[str, Any]:
    """The commit record in an array's shard: it precedes the index, and is found from the end of the file by its end marker."""
    data = next(path for path in (column / "c" / str(shard)).rglob("*") if path.is_file()).read_bytes()
    end = data.rindex(b"\x97elisa\x02\x8b") - 8
    return json.loads(data[end - int.from_bytes(data[end : end + 8], "little") : end])


def show(dataset: Path, split: str, proposer: str, image: int) -> None:
    """Print what the store holds of an image."""
    meta = json.loads((dataset / "images" / split / "column.json").read_text())
    if not 0 <= image < meta["images"]:
        raise IndexError(f"image_index {image} is outside 0..{meta['images'] - 1}")
    shard, position = divmod(image, meta["shard_images"])
    (row,) = read_rows(dataset / "images" / split, shard, image)
    height, width = row["height_px"], row["width_px"]
    size = f"{width} x {height} px" if row["status"] == "ok" else f"{row['status']}: {row['error']}"
    print(f"image {image}, {row['image_id']}: {row['path']}, {size}")
    if row["status"] != "ok":
        return
    (masks,) = read_rows(dataset / "masks" / proposer / split, shard, image)
    print(f"{len(masks['area'])} masks, largest first")
    for k in range(min(3, len(masks["area"]))):
        pixels = decode_rle(masks["segmentation"][k], height, width)
        quality = masks["predicted_iou"][k]
        print(f"  area {masks['area'][k]} px, decoded {pixels.sum()} px, predicted_iou {quality:.3f}")
    matches = {
        match["target_id"]: match for match in read_rows(dataset / "match" / proposer / "targets" / split, shard, image)
    }
    for target in read_rows(dataset / "targets" / split, shard, image):
        iou, iop = (matches[target["target_id"]][name] for name in ("iou", "iop"))
        print(f"target {target['target_id']}: {target['texts'][0]!r}, {len(target['instances'])} instances")
        if iou:
            best = max(range(len(iou)), key=iou.__getitem__)
            print(f"  best mask {best}: iou {iou[best]:.3f}, iop {iop[best]:.3f}")
    for folder in sorted(path.parent for path in dataset.rglob(f"{split}/zarr.json")):
        name = folder.parent.relative_to(dataset).as_posix()
        commit = read_commit(folder, shard)
        if commit["status"][position] != "ok":
            print(f"{name}: image {image}: {commit['errors'][str(position)]}")
            continue
        array = zarr.open_array(folder, mode="r")
        vectors = np.asarray(array[image, : commit["counts"][position]])  # rows after the count are NaN
        mean = vectors.astype("float64").mean() if vectors.size else 0.0
        print(f"{name}: {vectors.dtype} {list(vectors.shape)}, mean {mean:.6f}")


def main() -> int:
    """Parse the command line and print the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--split", default="val")
    parser.add_argument("--proposer", default="demo_sam", help="whose masks")
    parser.add_argument("--image", type=int, default=0, help="image_index")
    arguments = parser.parse_args()
    dataset, split = arguments.store / arguments.dataset, arguments.split
    if not (dataset / "images" / split / "column.json").is_file():
        print(f"error: {dataset} holds no indexed split {split}; make the demo's with: make repro", file=sys.stderr)
        return 2
    try:
        show(dataset, split, arguments.proposer, arguments.image)
    except (OSError, IndexError) as error:
        print(f"error: {error}; see what is missing with: python cli.py info", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
