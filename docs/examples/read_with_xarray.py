"""Opens an array column as an xarray.DataArray with stock zarr: named axes, and NaN where there is no vector.

Needs xarray (`pip install xarray`) and zarr >= 3; nothing of this project is imported. It trusts the files: only zarr's
crc32c is checked, not whether the column is finished, as our own reader does. Run from the repository root, after `make repro`:

    .venv/bin/python docs/examples/read_with_xarray.py --store data/store --dataset demo --split val
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

try:
    import xarray as xr
    import zarr
except ModuleNotFoundError as missing:
    print(f"error: this example needs {missing.name}; type: pip install xarray 'zarr>=3'", file=sys.stderr)
    raise SystemExit(2) from None


def open_column(dataset: Path, column: str, split: str, images: slice) -> xr.DataArray:
    """Images of an array column of a split; `image` is labelled with the image_id."""
    indexed = dataset / "images" / split / "column.json"
    if not indexed.is_file():
        raise FileNotFoundError(f"{dataset} holds no indexed split {split}; make the demo's with: make repro")
    sources = json.loads(indexed.read_text())["sources"]  # [image_id, path] of every image
    array = zarr.open_array(dataset / column / split, mode="r")
    names = [image_id for image_id, _ in sources][images]
    return xr.DataArray(array[images], dims=array.metadata.dimension_names, coords={"image": names}, name=column)


def main() -> int:
    """Parse the command line and print each image's vectors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--split", default="val")
    parser.add_argument("--column", default="mask_embeddings/demo_sam/demo_alphaclip")
    parser.add_argument("--images", type=int, default=8, help="how many, from the first one on")
    arguments = parser.parse_args()
    try:
        dataset = arguments.store / arguments.dataset
        vectors = open_column(dataset, arguments.column, arguments.split, slice(0, arguments.images))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{name} {size}" for name, size in vectors.sizes.items()))
    row, feature = vectors.dims[1], vectors.dims[2:]
    for image in vectors:
        there = image.dropna(row)  # [count, ...], as our reader gives it
        lengths = (there.astype("float64") ** 2).sum(feature) ** 0.5
        mean = float(lengths.mean()) if there.sizes[row] else 0.0
        print(f"{image.image.item()}: {there.sizes[row]} vectors, mean length {mean:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
