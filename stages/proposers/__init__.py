"""Generators of masks, known by a name in the params. One file and one line of :data:`PROPOSERS` per kind.

No torch here: ``info`` and the planner read this table; torch is imported by :func:`build`.
How to add one: docs/add_a_proposer.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import PlainValidator, SerializeAsAny

from stages.names import did_you_mean
from stages.proposers import params as models
from stages.proposers.params import ProposerParams

Pixels = npt.NDArray[np.uint8]
Memo = dict[Any, Any]
ROWS = "rows"
"""Key of a memo: the row of table ``images`` of each image."""


@dataclass(frozen=True)
class Kind:
    """One line of :data:`PROPOSERS`."""

    module: str
    """File in stages/proposers that has ``build(params, paths, device, points_per_batch, shared) -> Proposer``."""
    params: type[ProposerParams]
    """Its options."""
    version: int = 1
    """Raised whenever the same options and image would give other masks."""


PROPOSERS: dict[str, Kind] = {
    "sam": Kind("sam.proposals", models.SamParams),
    "grid": Kind("grid", models.GridParams),
    "imported": Kind("imported", models.ImportedParams),
}


@dataclass(frozen=True)
class Found:
    """What a proposer finds in an image.

    Args:
        records: gives a dict per mask with SAM's names, everything in px of the image: ``segmentation`` COCO RLE counts (str),
            ``bbox`` and ``crop_box`` XYWH, ``area``, ``predicted_iou``, ``stability_score``, ``point_coords`` [[x, y]]. A
            proposer without scores says 1.0. It runs no network: another thread calls it while the next image is at work.
        trouble: why there are no records, if the proposer's numbers are not finite.
    """

    records: Callable[[], list[dict[str, Any]]]
    trouble: str | None = None


def largest_first(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records by falling area, equal areas in the proposer's own order, so that the largest K are a prefix."""
    return sorted(records, key=lambda record: -record["area"])


class Proposer(Protocol):
    """A proposer with its model loaded."""

    @property
    def prepare(self) -> Callable[[Pixels], Any]:
        """The function that converts uint8 [H, W, 3] RGB to the input of :meth:`propose`; another thread calls it ahead.

        Proposers with the same
        function share what it returns."""

    def propose(self, images: Sequence[Any], memo: Memo) -> Iterator[Found]:
        """What it finds in each of the prepared images, in order.

        Args:
            memo: keeps what proposers share about these images, such as SAM's embedding of them; ``memo[ROWS]`` has their rows.
        """


def proposer_params(value: Any) -> ProposerParams:
    """The options of a proposer, an entry of section ``proposers``; without ``kind`` it is SAM's.

    Raises:
        ValueError: the value is not a section, or its kind is unknown (pydantic.ValidationError: an option is unknown or out of
            range).
    """
    if isinstance(value, ProposerParams):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"found {value!r}, expected a section such as {{model: sam_vit_h}}")
    kind = value.get("kind", "sam")
    if kind not in PROPOSERS:
        found = "nothing" if kind is None else repr(kind)
        raise ValueError(
            f"kind: found {found}, expected one of {', '.join(PROPOSERS)}{did_you_mean(str(kind), PROPOSERS)}"
        )
    return PROPOSERS[kind].params.model_validate(value)


AnyProposer = Annotated[SerializeAsAny[ProposerParams], PlainValidator(proposer_params)]
"""An entry of section ``proposers``, of any kind."""


def build(
    params: ProposerParams, paths: Mapping[str, Path], device: str, points_per_batch: int | None, shared: Memo
) -> Proposer:
    """Load a proposer.

    Args:
        paths: maps each name of ``params.weights`` to a file whose digest was checked.
        points_per_batch: prompts decoded together; None: the kind's own number.
        shared: keeps what proposers of one model share, such as its weights; the same dict for all of them.
    """
    module = importlib.import_module(f"stages.proposers.{PROPOSERS[params.kind].module}")
    made: Proposer = module.build(params, paths, device, points_per_batch, shared)
    return made


def identity(params: ProposerParams) -> dict[str, Any]:
    """Everything about a proposer that decides its masks, without the files of weights."""
    return {**params.model_dump(mode="json"), "kind_version": PROPOSERS[params.kind].version}
