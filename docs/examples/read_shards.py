"""Prints one record of a store with our reader: numpy, pyarrow and google-crc32c, no zarr, no torch.

Run from the repository root, after `make repro`:

    .venv/bin/python docs/examples/read_shards.py --store data/store --dataset demo --split val --image 0 --proposer demo_sam

`read_with_stock_zarr.py` prints the same lines without any of our code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# In your own training code, after `pip install dist/elisa_store-*.whl`, this is: from elisa_store import ...
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from store import FailedImageError, Record, StoreError, open_split


def show(record: Record) -> None:
    """Print what the store holds of an image."""
    size = f"{record.width_px} x {record.height_px} px" if record.status == "ok" else f"{record.status}: {record.error}"
    print(f"image {record.image_index}, {record.image_id}: {record.path}, {size}")
    if record.status != "ok":
        return
    print(f"{len(record.masks)} masks, largest first")
    for mask in record.masks[:3]:
        pixels = mask.decode()  # bool [height_px, width_px]
        print(f"  area {mask['area']} px, decoded {pixels.sum()} px, predicted_iou {mask['predicted_iou']:.3f}")
    for target in record.targets:
        print(f"target {target['target_id']}: {target['texts'][0]!r}, {len(target['instances'])} instances")
        if target.get("iou"):
            best = max(range(len(target["iou"])), key=target["iou"].__getitem__)
            print(f"  best mask {best}: iou {target['iou'][best]:.3f}, iop {target['iop'][best]:.3f}")
    for name, column in record.split.columns.items():
        if column.meta.array is not None:
            try:
                vectors = record[name]  # [count, ...]; row k belongs to mask (or instance) k
            except FailedImageError as error:
                print(f"{name}: {error}")
                continue
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
    try:
        split = open_split(arguments.store, arguments.dataset, arguments.split)
        split = split.of_proposer(arguments.proposer)
        show(split[arguments.image])
    except (StoreError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
