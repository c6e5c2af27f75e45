"""The systems that can be trained: one line for each. No torch here. How to add one: docs/add_a_system.md."""

from __future__ import annotations

from dataclasses import dataclass

from stages.fields import Params
from stages.predictions import MODES
from stages.train import params as models


@dataclass(frozen=True)
class SystemLine:
    """Facts about a system that are needed before torch is loaded.

    Args:
        place: module and class, a :class:`stages.train.system.System`.
        version: of its training. Raised by one if the same parameters and data now give another result and have to be trained
            again.
        params: model of its section, the field of section train that is called like the system.
        answering: its parameters that only decide how a trained model answers. They belong to predictions, not to a run.
        chooses: whether it chooses among a proposer's masks; for other systems ``train.proposer`` makes no difference.
        centered: whether it learns from centred embeddings; ``train.mean`` belongs to its runs, and to no other's.
        modes: the modes in which it can answer.
        words: whether it makes each mask a word of the language model, so that its other words can be compared with it.
    """

    place: str
    version: int
    params: type[Params]
    answering: tuple[str, ...]
    chooses: bool = False
    centered: bool = False
    modes: tuple[str, ...] = MODES
    words: bool = False


SYSTEMS = {
    "elisa": SystemLine(
        "stages.train.elisa.system:Elisa",
        3,
        models.ElisaParams,
        ("max_new_tokens", "beams", "repeats"),
        True,
        True,
        modes=("generated",),
        words=True,
    ),
    "llmseg": SystemLine(
        "stages.train.llmseg.system:LlmSeg", 2, models.LlmSegParams, ("max_new_tokens", "strategy", "threshold"), True
    ),
    "lisa": SystemLine("stages.train.lisa.system:Lisa", 3, models.LisaParams, ("max_new_tokens",)),
}
"""Name, which is a section below train -> line. What last raised the versions: without a chat template, sequences begin with
``<s>``; elisa's ``loss_over: positions`` divides by the positions of the answers."""
