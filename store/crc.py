"""crc32c of bytes where they lie in memory, without holding the interpreter lock."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import google_crc32c

__all__ = ["crc32c_at"]


def _find() -> Callable[[int, int], int]:
    """The C function that google-crc32c's extension is linked with: called through ctypes it lets other threads run.

    Where that cannot be found (another build, no extension at all) google-crc32c itself does the same under the lock.
    """
    try:
        from google_crc32c import _crc32c

        function = ctypes.CDLL(_crc32c.__file__).crc32c_value
    except (ImportError, OSError, AttributeError):
        return lambda address, length: google_crc32c.value(ctypes.string_at(address, length))  # type: ignore[no-any-return]
    function.restype = ctypes.c_uint32
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return function  # type: ignore[no-any-return]


crc32c_at = _find()
"""``crc32c_at(address, length)``: checksum of ``length`` bytes at ``address``."""
