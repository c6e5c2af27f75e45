"""A JPEG that was cut is read where its end marker alone lacks, and nowhere else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from stages.images import NO_END_MARKER, ImageFailure, read_picture

HEIGHT, WIDTH = 83, 125
_COARSE = np.random.default_rng(0).uniform(0, 255, (5, 7, 3)).astype(np.float32)
RGB = Image.fromarray(cv2.resize(_COARSE, (WIDTH, HEIGHT)).clip(0, 255).astype(np.uint8))

KINDS: list[dict[str, Any]] = [
    {"progressive": True},
    {"progressive": True, "restart_marker_rows": 1, "subsampling": 2},
    {"quality": 100, "subsampling": 0},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "optimize": True},
]


def _encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _note(path: Path, data: bytes) -> str | None:
    """The note of these bytes, or why they cannot be read."""
    path.write_bytes(data)
    try:
        return read_picture(path, 10**6).note
    except ImageFailure as failure:
        return f"failed: {failure}"


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", KINDS)
def test_without_its_end_marker_a_jpeg_is_whole(tmp_path: Path, options: dict[str, Any], mode: str) -> None:
    path = tmp_path / "a.jpg"
    data = _encoded(RGB.convert(mode), **options)
    assert _note(path, data) is None
    whole = read_picture(path, 10**6).pixels
    for cut in (1, 2):
        if _note(path, data[:-cut]) is not None:  # there are files whose end Pillow itself does not miss
            assert _note(path, data[:-cut]) == NO_END_MARKER
        np.testing.assert_array_equal(read_picture(path, 10**6).pixels, whole)


@pytest.mark.parametrize("options", KINDS)
def test_a_jpeg_that_lacks_more_is_never_read(tmp_path: Path, options: dict[str, Any]) -> None:
    """Also where it was cut between two scans, or at a restart marker, where nothing that follows is decoded."""
    data = _encoded(RGB, **options)
    markers = [at for at in range(len(data) - 2) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    cuts = {*markers, *(at + 2 for at in markers), *range(len(data) - 30, len(data) - 2), *range(200, len(data), 97)}
    for cut in sorted(cuts - {len(data) - 2}):
        note = _note(tmp_path / "a.jpg", data[:cut])
        assert note is not None, cut
        assert note.startswith("failed: "), (cut, len(data))


def test_the_end_of_a_plain_picture_is_not_guessed(tmp_path: Path) -> None:
    """A few bits encode whole blocks of one ink, and most paddings give the ink's limit."""
    data = _encoded(Image.new("CMYK", (33, 65), (0, 0, 0, 255)), quality=5)
    assert _note(tmp_path / "a.jpg", data[:-2]) == NO_END_MARKER
    for cut in range(3, 12):
        assert (_note(tmp_path / "a.jpg", data[:-cut]) or "").startswith("failed: "), cut


def test_a_jpeg_that_ends_in_zeros_is_not_completed(tmp_path: Path) -> None:
    data = _encoded(RGB, progressive=True)
    assert (_note(tmp_path / "a.jpg", data[: len(data) // 2] + bytes(500)) or "").startswith("failed: ")
