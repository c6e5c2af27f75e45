"""Which GPU a Dask worker uses: one each, decided before its process loads torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_GPUS = Path("/proc/driver/nvidia/gpus")
"""Linux: a folder for each card that the driver knows."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_cards() -> tuple[str, ...]:
    """The cards that this process may use, as CUDA_VISIBLE_DEVICES names them: numbers or UUIDs. Torch is not loaded."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return tuple(map(str, range(len(list(_GPUS.iterdir()) if _GPUS.is_dir() else ()))))
    cards: list[str] = []
    for card in map(str.strip, named.split(",")):
        if not card or card.startswith("-"):  # as in CUDA: later entries do not count
            break
        cards.append(card)
    return tuple(cards)


def nanny_of(cards: Sequence[str]) -> Any:
    """The class of a LocalCluster's workers: worker n sees only card n, starting over at the first card if there are more workers.

    A worker that is started again has the card of the one before.
    """
    from distributed import Nanny

    if not cards:
        return Nanny

    class OnItsCard(Nanny):  # type: ignore[misc]  # distributed has no types
        def __init__(self, *args: Any, **options: Any) -> None:
            card = cards[int(options.get("name") or 0) % len(cards)]
            super().__init__(*args, **{**options, "env": {**(options.get("env") or {}), VISIBLE: card}})

    return OnItsCard
