"""The records of the benchmarks: seeded, made again wherever they are needed, and known by their digests.

A record is what a LISA- or ELISA-like training step reads of an image: patch tokens, 50 mask embeddings, the masks' RLEs and a
question. The numbers are random bits (any finite float16), which no format can compress; a loader's work does not depend on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PATCHES, MASKS = (576, 1024), (50, 768)
BATCH = 32
PROFILES = ("shuffled", "sequential", "embeddings_text", "single")
"""Whole records shuffled; in order; only mask embeddings and text, shuffled; whole records one at a time, at random."""

F16 = npt.NDArray[np.float16]
_RLE_CHARACTERS = np.arange(48, 112, dtype=np.uint8)  # COCO's


@dataclass(frozen=True)
class Record:
    """One image: patches float16 [576, 1024], masks float16 [50, 768], 50 RLE counts, one text."""

    patches: F16
    masks: F16
    rles: list[str]
    text: str

    @property
    def rle_bytes(self) -> bytes:
        """The RLEs in one piece, for formats without lists; COCO's characters have no line feed."""
        return "\n".join(self.rles).encode()


@dataclass(frozen=True)
class Records:
    """The records 0 to count - 1, made as they are asked for."""

    count: int
    seed: int = 0
    narrow: bool = False

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        return (record(number, self.seed, self.narrow) for number in range(self.count))

    @property
    def in_a_file(self) -> int:
        """How many go into a file (a shard, a chunk): 256, which are 330 MB; of few records, half of them."""
        return min(256, -(-self.count // 2))


def record(number: int, seed: int = 0, narrow: bool = False) -> Record:
    """One record; the same for the same number and seed on every machine. ``narrow``: its patches have no rows."""
    rng = np.random.default_rng([seed, number])
    lengths = rng.integers(200, 520, MASKS[0])
    characters = rng.choice(_RLE_CHARACTERS, int(lengths.sum())).tobytes().decode()
    ends = np.cumsum(lengths).tolist()
    rles = [characters[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]
    words = rng.integers(0, 10_000, rng.integers(20, 200)).tolist()
    text = f"record {number}: " + " ".join(f"wörd{word}" for word in words)
    masks = _bits(rng, MASKS)
    return Record(_bits(rng, (0 if narrow else PATCHES[0], PATCHES[1])), masks, rles, text)


def _bits(rng: np.random.Generator, shape: tuple[int, int]) -> F16:
    raw = np.frombuffer(rng.bytes(2 * shape[0] * shape[1]), np.uint16) & np.uint16(0xBFFF)  # below 2, never inf or NaN
    return raw.view(np.float16).reshape(shape)


def digest(parts: Record | dict[str, Any], whole: bool = True) -> str:
    """Canonical digest of a record's bytes: of masks and text, or of all four parts."""
    get = parts.get if isinstance(parts, dict) else lambda name: getattr(parts, name)
    state = hashlib.sha256(np.ascontiguousarray(get("masks")))
    state.update(str(get("text")).encode() + b"\0")
    if whole:
        state.update(np.ascontiguousarray(get("patches")))
        for rle in get("rles") or ():
            state.update(rle.encode() + b"\0")
    return state.hexdigest()


def size_bytes(rles: int, text: int, whole: bool = True) -> int:
    """Bytes that a record of this many bytes of RLEs and text has."""
    masks = 2 * MASKS[0] * MASKS[1]
    return masks + text + (2 * PATCHES[0] * PATCHES[1] + rles if whole else 0)


def batches_of(order: Sequence[int], size: int = BATCH) -> list[list[int]]:
    """The order cut into batches."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def shuffled(count: int, epoch: int) -> list[int]:
    """A permutation, for peers that bring no shuffle of their own but can read any record."""
    return np.random.default_rng([7, epoch]).permutation(count).tolist()


def order_of(profile: str, count: int, epoch: int) -> list[int]:
    """Which records come in an epoch of a profile."""
    return list(range(count)) if profile == "sequential" else shuffled(count, epoch)
