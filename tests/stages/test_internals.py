"""One test for each function of stages.internals: what it rests on still holds in these versions of the libraries."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import numba
import pytest
from numba.core.caching import FunctionCache
from PIL import Image

from stages.internals import compiled, hush_bitsandbytes, refuse_decompression_bombs


def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes numba's own way past damaged files; that it does is in tests/pipeline/test_pipe_read_only.py."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert hasattr(FunctionCache, "_guard_against_spurious_io_errors")
    found = compiled(lambda value: value + 1)
    assert isinstance(found._cache, FunctionCache)


def test_refuse_decompression_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    Image.new("1", (30, 50)).save(data, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.open(data)  # 1500 px: by itself Pillow warns at most
        refuse_decompression_bombs()
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(data)


def test_hush_bitsandbytes() -> None:
    hush_bitsandbytes()
    assert logging.getLogger("bitsandbytes.backends.cpu.ops").getEffectiveLevel() == logging.ERROR
    assert logging.getLogger("bitsandbytes.cextension").getEffectiveLevel() < logging.ERROR
