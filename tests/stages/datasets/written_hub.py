"""The hub's Parquet copies of ReasonSeg, written as ``datasets`` writes the features that Seg-Zero's script declares."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("mask", pa.list_(pa.list_(pa.bool_()))),
        ("text", pa.string()),
        ("image_id", pa.string()),
        ("ann_id", pa.string()),
        ("img_height", pa.int64()),
        ("img_width", pa.int64()),
    ]
)


def picture(height: int, width: int, seed: int = 0, kind: str = "JPEG", orientation: int = 1) -> bytes:
    """A file of a picture that is stored with this size."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(out, kind, exif=exif)
    return out.getvalue()


def row(name: str, mask: Any, question: str = "what waits?", data: bytes | None = None, **more: Any) -> dict[str, Any]:
    """A row about the file ``name``, as the script makes it: its id is the name up to the first dot."""
    mask = np.asarray(mask, bool)
    height, width = mask.shape
    image_id = name.split(".")[0]
    data = picture(height, width) if data is None else data
    return {
        "image": {"bytes": data, "path": name},
        "mask": mask.tolist(),
        "text": question,
        "image_id": image_id,
        "ann_id": image_id,
        "img_height": height,
        "img_width": width,
        **more,
    }


def write(
    root: Path, split: str, rows: Sequence[Any], group: int = 2, parts: int = 1, schema: pa.Schema = SCHEMA
) -> list[Path]:
    """Write a split's files; ``group``: rows of a row group."""
    folder = root / f"ReasonSeg_{split}" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    size, paths = -(-len(rows) // parts), []
    for part in range(parts):
        paths.append(folder / f"test-{part:05d}-of-{parts:05d}.parquet")
        table = pa.Table.from_pylist(list(rows[part * size : (part + 1) * size]), schema=schema)
        pq.write_table(table, paths[-1], row_group_size=group)
    return paths
