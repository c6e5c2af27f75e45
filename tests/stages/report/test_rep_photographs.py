"""Pictures are those that were indexed, or there is a reason."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.photographs import GoneError, photograph


def row(root: Path, path: str = "val/a.png", **changes: Any) -> dict[str, Any]:
    file = root / path
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "0" * 64
    return {"path": path, "sha256": sha256, "status": "ok", "error": None, **changes}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data/val").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "data/val/a.png", exif=exif)
    (tmp_path / "secret.png").write_bytes((tmp_path / "data/val/a.png").read_bytes())
    return tmp_path / "data"


def test_it_is_oriented(root: Path) -> None:
    assert photograph(root, row(root), 100).shape == (6, 4, 3)


def test_what_cannot_be_shown_says_why(root: Path) -> None:
    kept = row(root)
    for changes, reason in (
        ({"status": "failed", "error": "is broken"}, "is broken"),
        ({"sha256": "1" * 64}, "val/a.png: not the file that was indexed"),
        ({"path": "val/b.png"}, "val/b.png: no such file"),
        ({"path": "../secret.png"}, "leads outside the data set's folder"),
        ({"path": "gone/b.png"}, "gone/b.png: "),
    ):
        with pytest.raises(GoneError, match=reason):
            photograph(root, {**kept, **changes}, 100)
    with pytest.raises(GoneError, match="24 px allowed|more than the 20 px"):
        photograph(root, kept, 20)
