"""Tells whether two picture files show the same: a digest of the decoded pixels, and a hash that small changes do not alter.

Both are kept below the cache folder by the sha256 of the file, so a picture is decoded once. The cache may be removed at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.photographs import GoneError, photograph
from stages.progress import tracked
from store.format.schema import OK
from store.read.folders import Folders
from store.storage.files import make_folder

LOG = "likeness.txt"
SIDE = 8


@dataclass(frozen=True)
class Likeness:
    """How a picture is recognised. pixels: sha256 of its upright RGB pixels and their size. look: its difference hash, 64 bits."""

    pixels: str
    look: int


def likenesses(
    folders: Folders, pictures: Mapping[str, str], max_pixels: int, cache: Path
) -> tuple[dict[str, Likeness], list[str]]:
    """sha256 of a file -> its likeness; and a line for each file without one, which begins with the path and says why.

    Args:
        pictures: sha256 of a file as it was indexed -> its path.
        cache: folder in which known likenesses are kept.
    """
    known, gone = _read(cache / LOG), []
    new = [(sha256, path) for sha256, path in pictures.items() if sha256 not in known]
    if new:
        make_folder(cache)
        with (cache / LOG).open("a", encoding="ascii") as log:
            for sha256, path in tracked(new, "pictures", len(new), "image"):
                row = {"path": path, "sha256": sha256, "status": OK}
                try:
                    found = likeness(photograph(folders, row, max_pixels))
                except GoneError as error:
                    gone.append(str(error))
                    continue
                known[sha256] = found
                log.write(f"{sha256} {found.pixels} {found.look:016x}\n")
    return {sha256: known[sha256] for sha256 in pictures if sha256 in known}, gone


def likeness(pixels: NDArray[np.uint8]) -> Likeness:
    """The likeness of a picture, uint8 [H, W, 3] RGB."""
    state = hashlib.sha256(repr(pixels.shape).encode())
    state.update(np.ascontiguousarray(pixels).data)
    small = np.asarray(
        Image.fromarray(pixels).convert("L").resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS), np.int16
    )
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return Likeness(state.hexdigest(), int("".join("1" if bit else "0" for bit in bits), 2))


def alike(ones: Iterable[int], others: Iterable[int], most: int) -> list[tuple[int, int, int]]:
    """Pairs (position, position, bits that differ) of difference hashes that differ in at most ``most`` bits, nearest first."""
    left, right = (np.array(list(hashes), np.uint64) for hashes in (ones, others))
    found = []
    for at, look in enumerate(left):
        bits = np.bitwise_count(right ^ look)
        found += [(at, int(place), int(bits[place])) for place in np.flatnonzero(bits <= most)]
    return sorted(found, key=lambda pair: pair[2])


def _read(log: Path) -> dict[str, Likeness]:
    """The content of the log; a line that a kill cut short is skipped."""
    known = {}
    for line in log.read_text(encoding="ascii", errors="replace").split("\n") if log.is_file() else ():
        sha256, _, rest = line.partition(" ")
        pixels, _, look = rest.partition(" ")
        if len(sha256) == len(pixels) == 64 and len(look) == 16:
            try:
                known[sha256] = Likeness(pixels, int(look, 16))
            except ValueError:
                continue
    return known
