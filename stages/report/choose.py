"""Which questions a page shows: the worst and the best of each system, and some in between."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Key = tuple[str, int]
"""target_id and text_index of a question."""


def choose(iou: Mapping[str, Mapping[Key, float]], count: int) -> dict[Key, list[str]]:
    """At most ``count`` questions of each system: a third its worst, a third its best, the rest evenly spaced by IoU between them.

    Args:
        iou: system -> question -> IoU, the questions in the order of the split; questions with equal IoU are taken in this
            order.

    Returns:
        Question -> why it is shown ("worst of NAME"), from the lowest to the highest mean IoU of the systems.
    """
    why: dict[Key, list[str]] = {}
    for system, of_question in iou.items():
        ranked = sorted(of_question, key=lambda key: of_question[key])
        few = min(count, len(ranked))
        worst, best = (few + 2) // 3, (few + 1) // 3
        # Ties among the best are also broken in the order of the split, not from its end.
        highest = sorted(of_question, key=lambda key: -of_question[key])[:best]
        rest = [key for key in ranked[worst:] if key not in set(highest)]
        between = [rest[place] for place in spread(len(rest), few - worst - best)] if few - worst - best else []
        for name, keys in (("worst", ranked[:worst]), ("middle", between), ("best", highest)):
            for key in keys:
                why.setdefault(key, []).append(f"{name} of {system}")
    return {key: why[key] for key in sorted(why, key=lambda key: _mean(iou, key))}


def _mean(iou: Mapping[str, Mapping[Key, float]], key: Key) -> float:
    values = [of_question[key] for of_question in iou.values() if key in of_question]
    return sum(values) / len(values)


def spread(count: int, wanted: int) -> npt.NDArray[np.int64]:
    """At most ``wanted`` of ``count`` positions, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
