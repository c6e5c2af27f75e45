"""NumPy's .npz: masks and vectors of one picture, or vectors of many pictures. Nothing is unpickled.

For one picture, which has the file's name: ``masks`` bool or uint8 [K, H, W], ``vectors`` [K, D], or both, and optionally
``predicted_iou`` [K] and ``stability_score`` [K]. For many pictures: each array has the name of its picture and holds its
vectors [K, D].
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.images import ImageFailure
from stages.imported import Each, Foreign
from stages.imported.records import MAX_MASKS, vectors_of
from store import rle

MAX_ARRAY_BYTES = 2**31
_OWN = {"masks", "vectors", "predicted_iou", "stability_score"}


def read_npz(path: Path, each: Each) -> None:
    """Call ``each`` for every picture of a file.

    Raises:
        ImageFailure: the file is not a .npz, or its arrays have neither form.
    """
    try:
        with zipfile.ZipFile(path) as zipped:
            names = [name for name in zipped.namelist() if name.endswith(".npy")]
            keys = {name.removesuffix(".npy") for name in names}
            if len(keys) != len(zipped.namelist()):
                raise ImageFailure("an array occurs twice, or the file holds something that is no array")
            if keys & {"masks", "vectors"}:
                if keys - _OWN:
                    raise ImageFailure(f"array {min(keys - _OWN)!r} is not one of {', '.join(sorted(_OWN))}")
                each(_one(path.stem, {key: _array(zipped, f"{key}.npy") for key in keys}))
                return
            for name in names:
                each(_vectors(zipped, name))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ImageFailure(f"not a .npz file: {error}") from error


def _vectors(zipped: zipfile.ZipFile, name: str) -> Foreign:
    picture = name.removesuffix(".npy")
    try:
        return Foreign(picture, vectors=_rows(_array(zipped, name)))
    except ImageFailure as error:
        return Foreign(picture, trouble=str(error))


def _one(name: str, arrays: dict[str, npt.NDArray[Any]]) -> Foreign:
    vectors = _rows(arrays["vectors"]) if "vectors" in arrays else None
    if "masks" not in arrays:
        return Foreign(name, vectors=vectors)
    masks = arrays["masks"]
    if masks.ndim != 3 or masks.dtype not in (np.bool_, np.uint8) or len(masks) > MAX_MASKS:
        raise ImageFailure(
            f"masks: found {masks.dtype} {list(masks.shape)}, expected bool or uint8 [masks, height, width]"
        )
    found = [{"segmentation": {"size": list(mask.shape), "counts": rle.encode(mask)}} for mask in masks]
    for key in arrays.keys() & {"predicted_iou", "stability_score"}:
        scores = arrays[key]
        if scores.shape != (len(masks),) or scores.dtype.kind not in "fiu":
            raise ImageFailure(f"{key}: found {scores.dtype} {list(scores.shape)}, expected a number per mask")
        for mask, score in zip(found, scores.tolist(), strict=True):
            mask[key] = score
    if vectors is not None and len(vectors) != len(masks):
        raise ImageFailure(f"{len(vectors)} vectors and {len(masks)} masks, expected as many")
    return Foreign(name, found, vectors=vectors)


def _rows(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return vectors_of(array, "vectors")


def _array(zipped: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """An array of a .npz; its header is compared with the member's size before anything is allocated."""
    with zipped.open(name) as file, _as_failure(name):
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ImageFailure(f"{name}: found version {version} of .npy, expected 1.0 or 2.0")
        shape, fortran, dtype = read[version](file)
        if dtype.hasobject or dtype.kind not in "biuf":
            raise ImageFailure(f"{name}: found {dtype}, expected numbers")
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_ARRAY_BYTES or not 0 < zipped.getinfo(name).file_size - size <= 2**17:
            raise ImageFailure(f"{name}: its header says {list(shape)} {dtype}, which does not fit its size")
        data = file.read(size)
        if len(data) != size:
            raise ImageFailure(f"{name}: it is cut short")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


@contextlib.contextmanager
def _as_failure(name: str) -> Iterator[None]:
    try:
        yield
    except ImageFailure:
        raise
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise ImageFailure(f"{name}: not an array: {error}") from error
