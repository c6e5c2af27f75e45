"""RLEs and texts of this project's store, for peers that read only its arrays: decoded once with pyarrow, then plain lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from store.format.layout import column_dir
from tests.benchmarks.collate import names_of
from tests.benchmarks.peers.ours import place


def texts_of(folder: Path, profile: str) -> dict[str, list[Any]]:
    """Name -> value of every record."""
    found: dict[str, list[Any]] = {}
    if "rles" in names_of(profile):
        found["rles"] = _column(column_dir(folder, place("masks/sam")), "segmentation")
    found["text"] = [texts[0] for texts in _column(column_dir(folder, place("targets")), "texts")]
    return found


def _column(folder: Path, name: str) -> list[Any]:
    files = sorted(folder.glob("*.parquet"))
    tables = [pq.ParquetFile(path, page_checksum_verification=True).read(columns=[name]) for path in files]
    return [value for table in tables for value in table.column(name).to_pylist()]


def array_folders(folder: Path, profile: str) -> dict[str, Path]:
    """Name -> folder of the Zarr array."""
    places = {"patches": "image_features/patches", "masks": "mask_embeddings/sam/masks"}
    return {name: column_dir(folder, place(places[name])) for name in names_of(profile) if name in places}
