"""The benchmark of a large split, on a few images: every command ends well, and the table has a line for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import scale


def test_the_small_images_have_about_1_kb(tmp_path: Path) -> None:
    for number in range(20):
        scale.make_image(tmp_path, (scale.SIDE_PX, scale.SIDE_PX), number)
    sizes = [path.stat().st_size for path in tmp_path.glob("*.jpg")]
    assert len(sizes) == 20
    assert 700 < min(sizes) <= max(sizes) < 1300


@pytest.mark.slow
def test_every_command_ends_well(tmp_path: Path) -> None:
    document = scale.measure(tmp_path, 10, 4)
    table = scale.report(document)
    for name in document["commands"]:
        assert f"| {name} |" in table
    assert set(document["rates"]) >= {1}
