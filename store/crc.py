"""crc32c of bytes where they lie in memory; of many bytes without holding the interpreter lock."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import google_crc32c

__all__ = ["crc32c_at"]

_LETS_OTHERS_RUN = 1 << 17
"""From so many bytes on: handing the interpreter lock over and back takes longer than the checksum of fewer."""


def _find() -> tuple[Callable[[int, int, int], int], Callable[[int, int, int], int]]:
    """The C function that google-crc32c's extension is linked with: holding the interpreter lock, and without it.

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


_holding, _letting_go = _find()


def crc32c_at(address: int, length: int) -> int:
    """Checksum of ``length`` bytes at ``address``."""
    return (_letting_go if length >= _LETS_OTHERS_RUN else _holding)(0, address, length)
