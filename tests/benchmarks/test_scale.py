"""The benchmark of a large split, on a few images: every command ends well, and the table has a line for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import scale, shared_pictures


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


@pytest.mark.slow
def test_every_command_about_borrowed_pictures_ends_well(tmp_path: Path) -> None:
    document = scale.measure_borrowers(tmp_path, 12)
    table = scale.report(document)
    for name in document["commands"]:
        assert f"| {name} |" in table
    assert {f"index of {name}, for the first time" for name in shared_pictures.BORROWERS} <= document["commands"].keys()


def test_regions_have_about_as_many_bytes_as_those_of_lvis(tmp_path: Path) -> None:
    """Its file has 1.1 GB for 1.27 million annotations."""
    data = shared_pictures.write(tmp_path, 20)
    assert set(data) == {"coco", *shared_pictures.BORROWERS}
    found = json.loads((tmp_path / "lvis/train.json").read_text())["annotations"]
    assert 500 < sum(len(json.dumps(each)) for each in found) / len(found) < 1100
