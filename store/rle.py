"""Masks as COCO run-length encodings: runs in column-major order, the first one counts zeros.

``counts`` is the compressed string of ``pycocotools`` (``cocodataset/cocoapi``, ``common/maskApi.c``), byte
for byte. Each run is a signed number; from the fourth run on, this is the difference from the run two before.
A number is written in groups of 5 bits, low bits first, with a sixth bit for "more follow", plus 48.

Every function raises :class:`~store.errors.RleError` on malformed counts, before it allocates more than a
small multiple of the string's own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import RleError

MAX_CHARS = 2**25
"""Longest counts string that is read or written. A chessboard of 4096 x 4096 single pixels takes half of that."""

_MAX_RUN = 2**32 - 1  # pycocotools keeps runs as 32-bit unsigned integers
_MAX_GROUPS = 7  # of 5 bits: the difference of two such runs needs 33 bits and a sign

Runs = NDArray[np.int64]


def encode(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> str:
    """Encode a mask [H, W], bool or uint8 (any value but 0 is set)."""
    if mask.ndim != 2 or mask.dtype not in (np.bool_, np.uint8):
        raise RleError(f"found a mask of shape {mask.shape} and type {mask.dtype}, expected [H, W] bool or uint8")
    height, width = mask.shape
    pixels = mask if mask.dtype == np.bool_ else mask != 0
    if not pixels.any():
        return _without_pixels(mask.size)
    if pixels.flags.f_contiguous:
        flat = pixels.ravel(order="F")
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    else:  # row by row, in the order of memory: putting columns first would copy the pixels
        at = np.flatnonzero(pixels[1:] != pixels[:-1])
        row = at // width
        within = (at - row * width) * height + row + 1
        between = (np.flatnonzero(pixels[0, 1:] != pixels[-1, :-1]) + 1) * height
        edges = np.concatenate([within, between])
        edges.sort()
    return _from_edges(np.concatenate([[0], edges]) if pixels[0, 0] else edges, mask.size)


@lru_cache(maxsize=64)
def _without_pixels(pixels: int) -> str:
    """The counts of a mask of this size without a pixel, as most ignored regions are."""
    return _from_edges(np.empty(0, np.int64), pixels)


def decode(counts: str, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """Decode to a mask, bool [H, W] in column-major memory order, as ``pycocotools`` gives it.

    Counts that do not cover exactly ``height_px * width_px`` pixels are an error, found before the mask is
    allocated.
    """
    runs = _sized_runs(counts, height_px, width_px)
    pixels = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return pixels.reshape(width_px, height_px).T


def to_runs(counts: str) -> Runs:
    """Give the run lengths, int64 [R], of zeros and ones in turn; the first is of zeros and may be 0."""
    if not 0 < len(counts) <= MAX_CHARS:
        raise RleError(f"counts have {len(counts)} characters, expected 1 to {MAX_CHARS}")
    try:
        codes = np.frombuffer(counts.encode("ascii"), np.uint8)
    except UnicodeEncodeError as error:
        raise RleError(f"counts have {counts[error.start]!r} at character {error.start}, expected '0' to 'o'") from None
    bad = np.flatnonzero((codes < 48) | (codes > 111))
    if bad.size:
        raise RleError(f"counts have {counts[bad[0]]!r} at character {bad[0]}, expected '0' to 'o'")
    codes = codes - np.uint8(48)
    ends = np.flatnonzero(codes < 32) + 1
    if not ends.size or ends[-1] != codes.size:
        raise RleError(f"counts end within a number, at character {codes.size}")
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    if lengths.max() > _MAX_GROUPS:
        raise RleError(f"a number in counts has {lengths.max()} groups of 5 bits, expected at most {_MAX_GROUPS}")
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31).astype(np.int64) << shifts, starts)
    runs -= ((codes[ends - 1] & 16) != 0).astype(np.int64) << (5 * lengths)
    # At most 2**25 numbers below 2**35 each: these sums stay far from 2**63.
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    _check_lengths(runs)
    return runs


def from_runs(runs: Runs) -> str:
    """Write run lengths, int64 [R], of zeros and ones in turn, as a compressed string."""
    if runs.ndim != 1 or runs.size == 0:
        raise RleError(f"found runs of shape {runs.shape}, expected [R], at least one")
    _check_lengths(runs)
    numbers = runs.astype(np.int64)
    numbers[3:] -= runs[1:-2]
    groups, largest = np.ones(runs.size, np.int64), int(np.abs(numbers).max())
    for k in range(1, _MAX_GROUPS):
        limit = 2 ** (5 * k - 1)
        if limit > largest:
            break
        groups += (numbers >= limit) | (numbers < -limit)
    ends = np.cumsum(groups)
    if ends[-1] > MAX_CHARS:
        raise RleError(f"counts would have {ends[-1]} characters, expected at most {MAX_CHARS}")
    starts = ends - groups
    codes = np.empty(ends[-1], np.uint8)
    for k in range(int(groups.max())):
        has = groups > k
        codes[starts[has] + k] = 48 + ((numbers[has] >> (5 * k)) & 31) + 32 * (groups[has] > k + 1)
    return codes.tobytes().decode("ascii")


def area(counts: str) -> int:
    """Count the set pixels."""
    return int(to_runs(counts)[1::2].sum())


def bbox(counts: str, height_px: int) -> tuple[int, int, int, int]:
    """Give the tight box as XYWH in px; an empty mask has (0, 0, 0, 0)."""
    return bbox_and_area(counts, height_px)[0]


def bbox_and_area(counts: str, height_px: int) -> tuple[tuple[int, int, int, int], int]:
    """:func:`bbox` and :func:`area`, for which the counts are read once."""
    starts, ends = _spans(to_runs(counts))
    return _box(starts, ends, height_px), int((ends - starts).sum())


def _box(starts: Runs, ends: Runs, height_px: int) -> tuple[int, int, int, int]:
    if not starts.size:
        return (0, 0, 0, 0)
    if height_px < 1:
        raise RleError(f"found set pixels in a mask of height {height_px} px, expected at least 1 px")
    last = ends - 1
    left, right = int(starts[0] // height_px), int(last[-1] // height_px)
    top, bottom = 0, height_px - 1
    # A run that goes on in the next column touches both borders; otherwise every run lies within one column.
    if np.array_equal(starts // height_px, last // height_px):
        top, bottom = int((starts % height_px).min()), int((last % height_px).max())
    return (left, top, right - left + 1, bottom - top + 1)


def sam_bbox(boxes: ArrayLike) -> NDArray[np.int32]:
    """Boxes of :func:`bbox`, [..., 4], as SAM gives them: W and H run from the first to the last pixel, so are one less."""
    return np.maximum(np.asarray(boxes, np.int32) - np.array([0, 0, 1, 1], np.int32), 0)


def intersections(a: Sequence[str], b: Sequence[str]) -> NDArray[np.int64]:
    """Count the common pixels of every pair, int64 [len(a), len(b)]; all masks have the same size.

    No image is decoded: how many pixels of one mask lie before a place follows from its runs, so an
    intersection is a sum over the other's runs.
    """
    if len(a) < len(b):
        return intersections(b, a).T
    runs_a = [to_runs(counts) for counts in a]
    runs_b = runs_a if b is a else [to_runs(counts) for counts in b]
    _check_same_size([*runs_a, *runs_b])
    common = np.zeros((len(a), len(b)), np.int64)
    if not b:
        return common
    spans = [_spans(runs) for runs in runs_a]
    places = np.concatenate([place for which in zip(*spans, strict=True) for place in which])  # starts, then ends
    bounds = np.cumsum([0] + [len(span[0]) for span in spans])
    for j, runs in enumerate(runs_b):
        before = _set_before(runs, places)
        totals = np.concatenate([[0], np.cumsum(before[bounds[-1] :] - before[: bounds[-1]])])
        common[:, j] = totals[bounds[1:]] - totals[bounds[:-1]]
    return common


def subtract(a: str, b: str) -> str:
    """Give the pixels of ``a`` that are not in ``b``; both have the same size."""
    runs = [to_runs(a), to_runs(b)]
    _check_same_size(runs)
    return _where_positive(runs, [1, -1], int(runs[0].sum()))


def union(counts: Sequence[str], height_px: int, width_px: int) -> str:
    """Give the pixels that are in any mask; no mask at all gives the empty one of that size."""
    runs = [_sized_runs(each, height_px, width_px) for each in counts]
    return _where_positive(runs, [1] * len(runs), height_px * width_px)


def _sized_runs(counts: str, height_px: int, width_px: int) -> Runs:
    pixels = int(height_px) * int(width_px)
    if height_px < 0 or width_px < 0:
        raise RleError(f"found a mask of {height_px} x {width_px} px, expected no negative size")
    if len(counts) > _MAX_GROUPS * (pixels + 1):
        raise RleError(f"counts have {len(counts)} characters, too many for {height_px} x {width_px} px")
    runs = to_runs(counts)
    covered = int(runs.sum())
    if covered != pixels:
        raise RleError(f"counts cover {covered} pixels, expected {height_px} x {width_px} = {pixels}")
    return runs


def _check_lengths(runs: Runs) -> None:
    if runs.min() < 0 or runs.max() > _MAX_RUN:
        bad = np.flatnonzero((runs < 0) | (runs > _MAX_RUN))
        raise RleError(f"run {bad[0]} has {runs[bad[0]]} pixels, expected 0 to {_MAX_RUN}")


def _check_same_size(runs: Sequence[Runs]) -> None:
    sizes = {int(each.sum()) for each in runs}
    if len(sizes) > 1:
        raise RleError(f"found masks of {min(sizes)} and of {max(sizes)} pixels, expected masks of one image")


def _spans(runs: Runs) -> tuple[Runs, Runs]:
    """Give first place and place after the last, in column-major order, of every run of ones that is not empty."""
    ends = np.cumsum(runs)
    is_set = (np.arange(runs.size) % 2 == 1) & (runs > 0)
    return ends[is_set] - runs[is_set], ends[is_set]


def _set_before(runs: Runs, places: Runs) -> Runs:
    """Count the set pixels before each place."""
    starts = np.concatenate([[0], np.cumsum(runs)])
    is_set = np.arange(starts.size) % 2
    before = np.concatenate([[0], np.cumsum(runs * is_set[:-1])])
    run = np.searchsorted(starts, places, side="right") - 1
    # A place past the last run has run == R: nothing of it lies before, whatever its parity.
    inside: Runs = before[run] + is_set[run] * (places - starts[run])
    return inside


def _where_positive(runs: Sequence[Runs], signs: Sequence[int], pixels: int) -> str:
    """Encode where the sum of the masks, each times its sign, is above 0."""
    places, steps = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for each, sign in zip(runs, signs, strict=True):
        starts, ends = _spans(each)
        places += [starts, ends]
        steps += [np.full(starts.size, sign), np.full(ends.size, -sign)]
    where, index = np.unique(np.concatenate(places), return_inverse=True)
    change = np.zeros(where.size, np.int64)
    np.add.at(change, index, np.concatenate(steps))
    edges = where[np.diff(np.cumsum(change) > 0, prepend=False)]
    return _from_edges(edges[edges < pixels], pixels)


def _from_edges(edges: Runs, pixels: int) -> str:
    """Encode from the places, in ascending order, where zeros and ones alternate; with place 0 if the first pixel is set."""
    ends = np.concatenate([edges, [pixels]])
    return from_runs(ends - np.concatenate([[0], edges]))
