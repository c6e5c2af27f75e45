"""Dense features in half the bytes: int8 values, and a float16 scale for each token (a patch, or a cell of SAM's grid).

value = int8 * scale. Two plain arrays, which any reader of Zarr can multiply; this module is how the project does it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

LARGEST = 127
_LARGEST_SCALE = np.float16(515.5)
"""The largest scale whose 127 steps float16 can hold."""


def to_int8(vectors: npt.NDArray[np.floating], axis: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Int8 values, shaped like ``vectors``, and float16 scales, with all axes but ``axis``, along which a token's numbers lie.

    A token's scale is the smallest float16 number that holds its largest absolute value in 127 steps, so that no value is wrong by
    more than half a scale. ``vectors`` are finite in float16.
    """
    whole = np.asarray(vectors, np.float32)
    largest = np.abs(whole).max(axis, initial=0)
    scale = (largest / LARGEST).astype(np.float16)
    scale = np.where(scale.astype(np.float32) * LARGEST < largest, np.nextafter(scale, np.float16(np.inf)), scale)
    scale = np.minimum(scale, _LARGEST_SCALE)
    steps = whole / np.expand_dims(np.where(scale > 0, scale, np.float16(1)).astype(np.float32), axis)
    return np.rint(steps).clip(-LARGEST, LARGEST).astype(np.int8), scale


def from_int8(values: npt.NDArray[np.int8], scale: npt.NDArray[np.float16], axis: int) -> npt.NDArray[np.float16]:
    """Float16 vectors of the shape of ``values``; ``axis`` as for :func:`to_int8` (for a batch, counted from the end)."""
    wide = values * np.expand_dims(scale, axis).astype(np.float32)  # numpy multiplies float16 numbers one by one
    return wide.astype(np.float16)
