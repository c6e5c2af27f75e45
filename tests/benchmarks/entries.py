"""What is measured: entry -> module of the peer, its options, and the packages whose versions go into the table."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One line of the table. ``data`` is the folder that is read: zarr-python and its like read ours."""

    module: str
    data: str
    package: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def load(self) -> ModuleType:
        """Import the peer."""
        return importlib.import_module(f"tests.benchmarks.peers.{self.module}")

    def loader(self, root: Path, profile: str) -> Any:
        """Its loader on the data below ``root``."""
        return self.load().loader(root / self.data, profile, **self.options)


CEILING = "numpy memmap"
OURS = "this store"
ENTRIES = {
    CEILING: Entry("memmap", "memmap", "numpy", note="the ceiling: one thread copies into reused memory, no checks"),
    "numpy memmap, 2 threads": Entry("memmap", "memmap", "numpy", {"threads": 2}, "a second ceiling"),
    OURS: Entry("ours", "ours", "", {"check": "always"}, "every byte checked at every read"),
    "this store, no thread": Entry("ours", "ours", "", {"check": "always", "threads": 0}, "read when asked for"),
    "this store, first-touch": Entry("ours", "ours", "", {"check": "first-touch"}),
    "this store, never": Entry("ours", "ours", "", {"check": "never"}, "verification off"),
    "zarr-python, fused": Entry("zarr_python", "ours", "zarr", {"pipeline": "fused"}, "reads our files"),
    "zarr-python, batched": Entry("zarr_python", "ours", "zarr", {"pipeline": "batched"}, "reads our files"),
    "tensorstore": Entry("tensorstore_zarr", "ours", "tensorstore", note="reads our files"),
    "zarrs": Entry("zarr_python", "ours", "zarrs", {"pipeline": "zarrs"}, "reads our files"),
    "LitData": Entry("litdata_chunks", "litdata", "litdata"),
    "MosaicML Streaming": Entry("mosaic_mds", "mds", "mosaicml-streaming"),
    "WebDataset": Entry("webdataset_tar", "webdataset", "webdataset", note="shuffles in a buffer of 100"),
    "HF datasets": Entry("hf_datasets", "hf", "datasets"),
    "Parquet": Entry("parquet", "parquet", "pyarrow", note="page checksums verified"),
    "Lance": Entry("lance_table", "lance", "pylance"),
    "safetensors": Entry("safetensors_files", "safetensors", "safetensors", note="a file per image"),
}


def competitors() -> list[str]:
    """The peers that the goals are held against: neither ours nor a ceiling."""
    return [name for name, entry in ENTRIES.items() if entry.module not in ("memmap", "ours")]
