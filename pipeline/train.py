"""Trains a system on the store, and has it answer the questions of a split."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from stages.weights import locate
from store import Split, open_split
from store.files import make_folder


def train_command(settings: Settings, system: str, restart: bool = False) -> str:
    """Train, or go on where a run was stopped; a finished run is left as it is.

    Args:
        restart: forget what was trained before.

    Returns:
        Where the result is.

    Raises:
        InputError: there is no such system, or the parameters do not fit the store.
    """
    from stages.train.run import finished, train

    folder = folder_of(settings, system)
    if not restart and finished(settings.train, system, folder):
        return f"{folder}: trained with these parameters already; --restart trains anew"
    splits = {name: _open(settings, settings.check_split(name), system) for name in settings.train.train}
    make_folder(folder)
    try:
        path = train(
            settings.train,
            system,
            splits,
            folder,
            _device(settings),
            partial(locate, folder=ROOT / settings.run.weights_dir, lock=settings.weights_lock),
            restart,
        )
    except ValueError as error:  # a model that is not there, parameters that do not fit it
        raise InputError(f"train {system}: {error}") from error
    return f"{path}: trained; python cli.py evaluate --system {system} --split {settings.splits[-1]} measures it"


def answers(settings: Settings, system: str, split: str) -> Path:
    """The answers of a trained system to a split's questions, generated anew.

    Raises:
        InputError: it was not trained with these parameters.
    """
    from stages.evaluate.predictions import Meta, write
    from stages.train.run import finished, predict, restore

    folder = folder_of(settings, system)
    if not finished(settings.train, system, folder):
        raise InputError(
            f"{folder}: {system} was not trained with these parameters; run: python cli.py train --system {system}"
        )
    opened = _open(settings, settings.check_split(split), system)
    weights = partial(locate, folder=ROOT / settings.run.weights_dir, lock=settings.weights_lock)
    trained = restore(settings.train, system, opened, folder, _device(settings), weights)
    path = folder / "predictions" / f"{split}.parquet"
    write(
        path, Meta(system, settings.dataset, split, "generated", "proposals"), predict(settings.train, trained, opened)
    )
    return path


def folder_of(settings: Settings, system: str) -> Path:
    """Where a system's checkpoints and predictions are; InputError, naming the choices, for an unknown one."""
    from stages.train.run import SYSTEMS

    if system not in SYSTEMS:
        raise InputError(f"--system: found {system!r}, expected one of {', '.join(SYSTEMS)}")
    return ROOT / settings.run.train_dir / settings.dataset / system


def _open(settings: Settings, split: str, system: str) -> Split:
    from stages.train.run import columns

    return open_split(settings.store_path, settings.dataset, split, columns=sorted(columns(settings.train, system)))


def _device(settings: Settings) -> str:
    from stages.device import resolve_device

    return resolve_device(settings.run)
