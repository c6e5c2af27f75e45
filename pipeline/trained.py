"""What a trained run is asked with: its columns of a split, its train mean, its checkpoints."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.graph import wanted_fingerprint
from pipeline.runs import Run
from pipeline.upstream import place_of
from stages.names import SplitRef
from stages.train.systems import SYSTEMS
from stages.weights import locate
from store import Split, open_split
from store.read.column import Column, open_column


def open_columns(settings: Settings, run: Run, split: SplitRef) -> Split:
    """A split with the columns that a run reads, in training or later."""
    from stages.train.run import columns

    where = settings.store_path, split.dataset, split.split
    return open_split(*where, columns=sorted(columns(run.params, run.system)), proposer=proposer_of(run))


def proposer_of(run: Run) -> str | None:
    """The proposer whose masks a run chooses from; None where it does not choose."""
    return run.params.proposer if SYSTEMS[run.system].chooses else None


def weights_of(settings: Settings) -> Any:
    """A function that gives the file of a checkpoint by its name, checked."""
    return partial(locate, folder=ROOT / settings.run.weights_dir, lock=settings.weights_lock)


def open_mean(settings: Settings, column: str) -> Column:
    """A train mean, open for reading.

    Raises:
        StoreError: it is missing.
        InputError: it is the mean of embeddings with another fingerprint than the settings'.
    """
    found = open_column(settings.store_path, place_of(settings, None, column))
    if found.meta.fingerprint != wanted_fingerprint(settings, None, column):
        raise InputError(
            f"{column} is the mean of other embeddings ({found.meta.fingerprint[:12]}); run: python cli.py normalize"
        )
    return found
