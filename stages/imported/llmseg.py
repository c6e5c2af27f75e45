"""LLM-Seg's HDF5 (``prepare_datasets/prepare_*.py``): one data set ``masks`` of texts, each ``str()`` of a Python dict.

LLM-Seg's own converter reads them with ``eval``. Here ``ast.literal_eval`` reads them, which accepts only literals, and texts
must be small enough to be parsed in little memory.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path
from typing import Any

from stages.images import ImageFailure
from stages.imported import Each, Foreign
from stages.imported.amg import of_llmseg
from stages.names import type_name

MAX_TEXT_BYTES = 2**23
"""Largest text of one picture: a picture with 200 masks has about 0.1 MB."""
MAX_COMMAS = 2**18
"""Most commas in a text: parsing takes about 1 kB of memory per value, whatever its length; a mask has 20 values."""


def read_hdf5(path: Path, each: Each) -> None:
    """Call ``each`` for every picture of a file, one in memory at a time.

    Raises:
        ImageFailure: the file is not HDF5, or has no such data set of its own.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            link = file.get("masks", getlink=True)
            data = file["masks"] if isinstance(link, h5py.HardLink) else None
            if not isinstance(data, h5py.Dataset) or data.ndim != 1 or data.dtype.kind not in "OS":
                raise ImageFailure("found no list of texts 'masks' in the HDF5 file")
            if data.is_virtual or data.external:
                raise ImageFailure("'masks' is kept in other files, which are not opened")
            for number in range(len(data)):
                each(entry_of(data[number], number))
    except (OSError, RuntimeError, KeyError) as error:
        raise ImageFailure(f"not an HDF5 file that can be read: {error}") from error


def entry_of(value: Any, number: int) -> Foreign:
    """What one text says of its picture; for a text that is not a dict of literals, ``entry <number>`` gets the ``trouble``."""
    try:
        return of_llmseg(literal(value))
    except ImageFailure as error:
        return Foreign("", trouble=f"entry {number}: {error}")


def literal(value: Any) -> Any:
    """The value of a text of Python literals. ImageFailure for any other text, and for one that is too long or nested too deep."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise ImageFailure(f"found {type_name(value)}, expected a text")
    if len(data) > MAX_TEXT_BYTES or data.count(b",") > MAX_COMMAS:
        raise ImageFailure(
            f"a text of {len(data)} bytes and {data.count(b',')} commas, expected at most {MAX_TEXT_BYTES} and {MAX_COMMAS}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes
            return ast.literal_eval(data.decode("utf-8"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ImageFailure(f"not a Python literal: {type(error).__name__}") from error
