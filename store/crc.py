"""crc32c of bytes where they lie in memory, without holding the interpreter lock."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import google_crc32c

__all__ = ["crc32c_at", "extend_at"]


def _find() -> Callable[[int, int, int], int]:
    """The C function that google-crc32c's extension is linked with: called through ctypes it lets other threads run.

    Where that cannot be found (another build, no extension at all) google-crc32c itself does the same under the lock.
    """
    try:
        from google_crc32c import _crc32c

        function = ctypes.CDLL(_crc32c.__file__).crc32c_extend
    except (ImportError, OSError, AttributeError):
        return lambda crc, address, length: google_crc32c.extend(crc, ctypes.string_at(address, length))  # type: ignore[no-any-return]
    function.restype = ctypes.c_uint32
    function.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t]
    return function  # type: ignore[no-any-return]


extend_at = _find()
"""``extend_at(crc, address, length)``: the checksum ``crc`` of what came before, gone on over ``length`` bytes at ``address``."""


def crc32c_at(address: int, length: int) -> int:
    """Checksum of ``length`` bytes at ``address``."""
    return extend_at(0, address, length)
