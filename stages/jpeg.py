"""Truncated JPEG files: decides whether only the end marker is missing, or pixels too.

A decoder fills in what is missing, so decoding the file with an end marker added proves nothing. Here different paddings are
added: missing pixels depend on the padding, and differ. In addition the scans in the file must be complete, since a file of
several scans that was cut between two of them decodes to the same pixels whatever follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN, _INTERVAL, _RESTARTS = 0xDA, 0xDD, range(0xD0, 0xD8)
_BARE = {0x00, 0x01, *range(0xD0, 0xDA)}
"""Bytes after 0xFF without a length: they belong to the entropy-coded data, or are a marker without a body."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PADDINGS = (*(bytes([value]) * 64 for value in (0x00, 0xAA, 0x55, 0x7F, 0xCC)), bytes(73 * n % 251 for n in range(64)))
"""Several paddings, as a short Huffman table may happen to decode two of them to the same blocks."""
_ZEROS = 16
_COEFFICIENTS = 64  # of a block


def without_end_marker(data: bytes) -> list[bytes]:
    """A JPEG without end marker, completed in several ways; an empty list for anything else.

    The first byte of a marker that was cut in two is removed. A file that ends in many zeros cannot be judged: a broken
    download may have left them, and they decode as pixels.
    """
    if not data.startswith(_START) or data.endswith((_END, bytes(_ZEROS))):
        return []
    data = data.rstrip(b"\xff")
    return [data + padding + _END for padding in _PADDINGS]


def every_pixel_is_there(data: bytes, decoded: Sequence[NDArray[np.uint8]]) -> bool:
    """Whether a JPEG lacks only its end marker. ``decoded``: the values of each of :func:`without_end_marker`."""
    first, *others = decoded
    try:
        return all(np.array_equal(first, other) for other in others) and _scans_are_complete(data)
    except (LookupError, ValueError):  # a segment is too short, or refers to something that does not exist
        return False


def _scans_are_complete(data: bytes) -> bool:
    """Whether the scans give every coefficient of every component of the frame to its last bit, between all restart markers."""
    size, shapes = (0, 0), dict[int, tuple[int, int]]()
    lacking: dict[int, NDArray[np.int64]] = {}
    interval = restarts = expected = 0
    for marker, body in _segments(data):
        if marker in _FRAMES:
            size = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            shapes = {body[at]: (body[at + 1] & 15, body[at + 1] >> 4) for at in range(6, 6 + 3 * body[5], 3)}
            lacking = {component: np.full(_COEFFICIENTS, 99) for component in shapes}
        elif marker == _INTERVAL:
            interval = int.from_bytes(body[:2], "big")
        elif marker == _SCAN:
            if restarts != expected:
                return False
            components = [body[at] for at in range(1, 1 + 2 * body[0], 2)]
            first, last, bits = body[-3], body[-2], body[-1] & 15
            for component in components:
                lacking[component][first : last + 1] = bits
            units = _units(size, shapes, components)
            restarts, expected = 0, ceil(units / interval) - 1 if interval else 0
        else:
            restarts += marker in _RESTARTS
    return restarts == expected and bool(lacking) and not any(bits.any() for bits in lacking.values())


def _units(size: tuple[int, int], shapes: Mapping[int, tuple[int, int]], components: Sequence[int]) -> int:
    """MCUs of a scan. size: height and width, px. shapes: component -> its sampling factors, vertical and horizontal."""
    blocks = []
    for axis in (0, 1):
        most = max(shape[axis] for shape in shapes.values())
        own = shapes[components[0]][axis]
        blocks.append(ceil(size[axis] / (8 * most)) if len(components) > 1 else ceil(ceil(size[axis] * own / most) / 8))
    return blocks[0] * blocks[1]


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment, and the restart markers; the entropy-coded bytes between them are skipped."""
    at = len(_START)
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 1:
        marker = data[at + 1]
        if marker in _RESTARTS:
            yield marker, b""
        if marker == 0xFF:  # fill bytes before a marker
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            yield marker, data[at + 4 : at + 2 + length]
            at += 2 + length
