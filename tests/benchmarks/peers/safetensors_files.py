"""One safetensors file per image, what many labs do: tensors mapped into memory, copied into the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, names_of
from tests.benchmarks.data import Records, batches_of, order_of


def write(folder: Path, records: Records) -> None:
    """RLEs and text as bytes."""
    for number, record in enumerate(records):
        texts = {"rles": record.rle_bytes, "text": record.text.encode()}
        arrays = {name: np.frombuffer(value, np.uint8) for name, value in texts.items()}
        save_file(
            {"patches": record.patches, "masks": record.masks, **arrays}, folder / f"image{number:07d}.safetensors"
        )


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of the header: of the first tensor's shape."""
    file = min(folder.glob("*.safetensors"))
    return file, file.read_bytes().index(b'"shape":[') + 9


def loader(folder: Path, profile: str) -> Iterable[Batch]:
    """A file is opened for every record."""
    files = sorted(folder.glob("*.safetensors"))
    names, size = names_of(profile), batch_size(profile)
    buffers = Buffers(size)

    def row(number: int) -> dict[str, Any]:
        with safe_open(files[number], framework="np") as tensors:
            return {name: tensors.get_tensor(name) for name in names}

    def texts(found: dict[str, Any]) -> dict[str, Any]:
        return {name: value if name in ("patches", "masks") else value.tobytes() for name, value in found.items()}

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, len(files), epoch), size):
            yield buffers.collate(profile, [texts(row(number)) for number in numbers])

    return Epochs(epoch_of)
