"""A batch that asks every text of its targets, in parts."""

from __future__ import annotations

import numpy as np
import torch

from stages.train.system import every_text


def test_every_text_once_in_order_with_its_own_row() -> None:
    texts = [["a", "b", "c"], ["d"], ["e", "f"]]
    batch = {
        "id": ["x", "y", "z"],
        "texts": texts,
        "features": torch.arange(6).reshape(3, 2),
        "target": np.array([7, 8, 9]),
    }
    found = list(every_text(batch, 4))
    assert [len(part["id"]) for part, _ in found] == [4, 2]
    asked = [
        (name, own[0], number, features.tolist(), int(target))
        for part, numbers in found
        for name, own, number, features, target in zip(
            part["id"], part["texts"], numbers, part["features"], part["target"], strict=True
        )
    ]
    assert asked == [
        ("x", "a", 0, [0, 1], 7),
        ("x", "b", 1, [0, 1], 7),
        ("x", "c", 2, [0, 1], 7),
        ("y", "d", 0, [2, 3], 8),
        ("z", "e", 0, [4, 5], 9),
        ("z", "f", 1, [4, 5], 9),
    ]
    assert all(len(own) == 1 for part, _ in found for own in part["texts"])
    assert batch["texts"] is texts
