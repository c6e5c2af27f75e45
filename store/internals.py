"""Code that relies on the internals of CPython, google-crc32c, Arrow or torch: one function each, with a test of the same name.

These functions save time or report errors; none decides what is read.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]


def unheld(buffers: Sequence[U8], held: int | None = None) -> U8 | None:
    """The first array of a sequence that nothing else references; None where all are referenced.

    Relies on CPython's reference counts, and on numpy's views holding the owner of the memory rather than each other.
    ``held``: for :func:`_count_when_unheld` alone.
    """
    for buffer in buffers:
        if sys.getrefcount(buffer) == (_UNHELD if held is None else held):
            return buffer
    return None


def _count_when_unheld() -> int:
    """What ``sys.getrefcount`` says in :func:`unheld` of an array that only the sequence holds; it varies by Python version."""
    buffers = [np.empty(1, np.uint8)]
    return next(count for count in range(1, 10) if unheld(buffers, count) is not None)


_UNHELD = _count_when_unheld()


def arrow_with_system_memory() -> None:
    """Make Arrow allocate with the C library in this process, if Arrow is loaded: for a child right after a fork.

    Relies on the C library's allocator being intact in a forked child. Arrow's own (mimalloc) is not if a thread of the parent
    was allocating at that moment: about one child in 300 of a busy parent waited forever.
    """
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and hasattr(pyarrow, "set_memory_pool"):
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())


_LETS_OTHERS_RUN = 1 << 17
"""Release the interpreter lock only from this many bytes on; below it, releasing costs more than the checksum."""


def _find_crc32c() -> tuple[Callable[[int, int, int], int], Callable[[int, int, int], int]]:
    """The C function that google-crc32c's extension is linked with, twice: called with the interpreter lock held, and released.

    Where it cannot be found (another build, no extension at all) google-crc32c itself does the same under the lock.
    """
    try:
        from google_crc32c import _crc32c

        functions = [library(_crc32c.__file__).crc32c_extend for library in (ctypes.PyDLL, ctypes.CDLL)]
    except (ImportError, OSError, AttributeError):

        def slower(crc: int, address: int, length: int) -> int:
            return google_crc32c.extend(crc, ctypes.string_at(address, length))  # type: ignore[no-any-return]

        return slower, slower
    for function in functions:
        function.restype = ctypes.c_uint32
        function.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
    return functions[0], functions[1]


_holding, _letting_go = _find_crc32c()


def crc32c_at(address: int, length: int) -> int:
    """Checksum of ``length`` bytes at ``address``, which are not copied."""
    return (_letting_go if length >= _LETS_OTHERS_RUN else _holding)(0, address, length)


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection while the block runs: records are not garbage, and each collection that they trigger scans all of
    torch."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sendable(descriptor: int) -> Any:
    """A file descriptor in a form that can be pickled for another process, which calls ``detach()`` to get its own."""
    from multiprocessing import reduction

    return reduction.DupFd(descriptor)  # type: ignore[attr-defined]


def signalled(error: Exception, wait_s: float = 5.0) -> Exception:
    """Torch's error about a loader worker that died: it is raised when the signal comes, which may be after the pipe is gone.

    Args:
        error: what reading from the pipe raised; returned where no signal says more within ``wait_s``.
    """
    if isinstance(error, RuntimeError):
        return error
    try:
        time.sleep(wait_s)  # the signal ends it
    except RuntimeError as told:
        return told
    return error
