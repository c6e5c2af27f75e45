"""Crop parameters that leave a layer without points: an error of the configuration, and SAM's own grids for the rest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from segment_anything.utils.amg import build_all_layer_point_grids

from pipeline.params_file import load_settings
from stages.proposers.params import SamParams

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("points", "layers", "factor"),
    [(1, 1, 2), (2, 2, 2), (12, 1, 13), (12, 2, 4), (3, 3, 2), (31, 5, 2), (1, 40, 3), (1, 1, 10**9)],
)
def test_crops_without_points_are_refused_before_any_work(
    finished_once: Any, points: int, layers: int, factor: int
) -> None:
    before = finished_once.times()
    changes = (
        f"proposers.sam.points_per_side={points}",
        f"proposers.sam.crop_n_layers={layers}",
        f"proposers.sam.crop_n_points_downscale_factor={factor}",
    )
    options = [word for change in changes for word in ("--set", change)]
    for verb in (["extract", "--split", "val"], ["extract", "--split", "val", "--dry-run"], ["index"], ["info"]):
        done = finished_once.run(*verb, before=tuple(options))
        assert done.code == 2
        for word in (
            "proposers.sam",
            "points_per_side",
            "crop_n_layers",
            "crop_n_points_downscale_factor",
            "without a point",
        ):
            assert word in done.err
    assert finished_once.times() == before


@pytest.mark.parametrize("factor", range(1, 6))
def test_exactly_the_combinations_that_sam_divides_by_zero_for(factor: int) -> None:
    values = load_settings(ROOT / "params.yaml").proposers["demo_sam"].model_dump() | {
        "crop_n_points_downscale_factor": factor
    }
    for points, layers in itertools.product(range(1, 40), range(5)):
        values |= {"points_per_side": points, "crop_n_layers": layers}
        try:
            build_all_layer_point_grids(points, layers, factor)
        except ZeroDivisionError:
            with pytest.raises(ValidationError, match="without a point"):
                SamParams.model_validate(values)
        else:
            assert SamParams.model_validate(values).points_per_side == points
