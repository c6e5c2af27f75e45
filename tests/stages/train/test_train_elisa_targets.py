"""What an answer of ELISA's training names: every candidate that is right, or the annotated instances alone, as released."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError

from stages.train.elisa.system import Elisa
from stages.train.params import ElisaParams

ROOT = Path(__file__).resolve().parents[3]


def params(**changes: Any) -> ElisaParams:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]["elisa"]
    return ElisaParams.model_validate({**values, "with_gt": True, **changes})


BATCH = {
    # Proposals 4, 1 and 2, of which 1 lies well on instance 0 and 2 nearly is instance 1; then instances 0 and 1, and padding.
    "candidates": torch.tensor([[4, 1, 2, -1, -2, 0]]),
    "masks_mask": torch.tensor([[True, True, True, True, True, False]]),
    "overlap": torch.tensor([[[0.1, 0.0], [0.8, 0.0], [0.0, 0.94], [0, 0], [0, 0], [0, 0]]]),
    "instances": [[0, 1]],
}


def named(targets: str | None, instances: list[int]) -> list[int]:
    own = params(**({} if targets is None else {"targets": targets}))
    system: Any = SimpleNamespace(own=own)
    (found,) = Elisa.positives(system, {**BATCH, "instances": [instances]})
    return found


def test_proposals_are_answers_unless_the_ground_truth_alone_is_asked_for() -> None:
    assert named(None, [0, 1]) == named("proposals", [0, 1]) == [1, 2, 3, 4]
    assert named("ground_truth", [0, 1]) == [3, 4]  # as released: SAM's masks are never answers
    assert named("ground_truth", [1]) == [4]
    assert named("ground_truth", []) == []


def test_the_ground_truth_must_be_offered() -> None:
    with pytest.raises(ValidationError, match="with_gt: found false with targets ground_truth"):
        params(targets="ground_truth", with_gt=False)
