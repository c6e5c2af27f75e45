"""Label maps as the publishers' descriptions have them: PNGs written from arrays of values, in the trees that people unpack."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def png(path: Path, values: Any, palette: bool = False) -> None:
    """Write uint8 [H, W] (gray, or indices of a palette), uint16 [H, W] or uint8 [H, W, 3] as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    if palette:
        image.putpalette([(value * 37 + channel * 11) % 256 for value in range(256) for channel in range(3)])
    image.save(path)


def raw_png(path: Path, width: int, height: int, depth: int, colour: int, rows: bytes) -> None:
    """Write a PNG whose header says what one likes; rows: every row with its filter byte in front."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.parent.mkdir(parents=True, exist_ok=True)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def jpeg(path: Path, height: int, width: int, orientation: int = 1) -> None:
    """Write a gray picture of this stored size with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (width, height), (90, 90, 90))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def mapillary_config(path: Path, names: Sequence[str]) -> None:
    """Write config_v2.0.json: labels with readable names, colours and what else it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = [
        {"name": f"group--{number}", "readable": name, "color": [number, 0, 0], "instances": False, "evaluate": True}
        for number, name in enumerate(names)
    ]
    path.write_text(
        json.dumps({"version": "2.0", "mapping": "public", "folder_structure": "{split}", "labels": labels})
    )
