"""Code that depends on the internals of numba, Pillow or bitsandbytes: one function each, with a test of the same name."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any


def compiled(function: Callable[..., Any]) -> Any:
    """A function that numba compiles at the first call and keeps in ``__pycache__`` or the user's cache folder.

    Where neither can be written, every process compiles for itself; a file that cannot be read, or is damaged, counts as
    missing. numba itself gives up on some of these.
    """
    import pickle

    import numba
    from numba.core.caching import FunctionCache

    class Kept(FunctionCache):  # type: ignore[misc]  # numba has no types
        @contextlib.contextmanager
        def _guard_against_spurious_io_errors(self) -> Iterator[None]:
            with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
                yield

    found: Any = numba.njit(nogil=True, error_model="numpy", boundscheck=False)(function)
    with contextlib.suppress(RuntimeError):  # no folder can be written
        found._cache = Kept(function)  # type: ignore[no-untyped-call]
    return found


def refuse_decompression_bombs() -> None:
    """Make Pillow raise for every picture above ``Image.MAX_IMAGE_PIXELS``.

    By default it warns up to twice that many pixels and raises above. Warning filters apply to the whole process and cannot be
    set for a thread, so this is done once, when :mod:`stages.images` is imported.
    """
    from PIL import Image

    warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def hush_bitsandbytes() -> None:
    """Silence one report of bitsandbytes, which peft and accelerate import.

    On some processors it reports on import that it could fetch a kernel from a hub. No such kernel is needed here.
    """
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
