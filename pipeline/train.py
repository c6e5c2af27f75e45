"""Trains a system on the store, and has it answer the questions of a split."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from pipeline.config import ROOT, InputError, Settings
from pipeline.shard import require_device
from stages.names import did_you_mean
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
    from stages.train.identity import finished
    from stages.train.run import train

    folder = folder_of(settings, system)
    splits = {name: _open(settings, settings.check_split(name), system) for name in settings.train.train}
    if not restart and finished(settings.train, system, folder, splits):
        return f"{folder}: trained with these parameters on these data already; --restart trains anew"
    make_folder(folder)
    try:
        path = train(
            settings.train,
            system,
            splits,
            folder,
            require_device(settings),
            partial(locate, folder=ROOT / settings.run.weights_dir, lock=settings.weights_lock),
            restart,
        )
    except ValueError as error:  # a model that is not there, parameters that do not fit it
        raise InputError(f"train {system}: {error}") from error
    return f"{path}: trained; python cli.py evaluate --system {system} --split {settings.splits[-1]} measures it"


def answers(settings: Settings, system: str, split: str, mode: str = "generated", given: str = "own") -> Path:
    """The answers of a trained system to a split's questions, generated anew.

    Args:
        mode: ``generated``, or ``teacher_forced``: the answer ``[SEG].`` is in the input.
        given: ``own``, or ``shuffled-images`` or ``shuffled-questions``: questions about each other's images.

    Returns:
        The file of predictions; its system is named with ``mode`` and ``given`` where these are not the usual ones.

    Raises:
        InputError: it was not trained with these parameters and this language model, or has no such mode.
    """
    from stages.evaluate.predictions import MODES, Meta, write
    from stages.train.identity import finished
    from stages.train.run import predict, restore

    if mode not in MODES:
        raise InputError(f"--mode: found {mode!r}, expected one of {', '.join(MODES)}")
    folder = folder_of(settings, system)
    if not finished(settings.train, system, folder):
        raise InputError(
            f"{folder}: {system} was not trained with these parameters and this language model; "
            f"run: python cli.py train --system {system}"
        )
    opened = _open(settings, settings.check_split(split), system)
    weights = partial(locate, folder=ROOT / settings.run.weights_dir, lock=settings.weights_lock)
    trained = restore(settings.train, system, opened, folder, require_device(settings), weights)
    unusual = [part for part, usual in ((mode, "generated"), (given, "own")) if part != usual]
    path = folder / "predictions" / f"{'-'.join([split, *unusual])}.parquet"
    meta = Meta("-".join([folder.name, *unusual]), settings.dataset, split, mode, "proposals")
    try:
        write(path, meta, predict(trained, opened, mode=cast(Any, mode), given=cast(Any, given)))
    except ValueError as error:  # a mode that the system has not, too few images to shuffle
        raise InputError(f"evaluate {system}: {error}") from error
    return path


def controls(settings: Settings, system: str, split: str) -> list[Path]:
    """Answers of a system that cannot understand: to questions about each other's images, and of the same system trained without
    the image or without the question, where there is one (``train.without``)."""
    from stages.train.controls import SHUFFLED, Without
    from stages.train.identity import finished

    found = [answers(settings, system, split, given=given) for given in SHUFFLED]
    for without in get_args(Without):
        params = settings.train.model_copy(update={"without": without})
        other = settings.model_copy(update={"train": params})
        if finished(params, system, folder_of(other, system)):
            found.append(answers(other, system, split))
        else:
            print(
                f"{system} was not trained without the {without}; to have that row: python cli.py --set "
                f"train.without={without} train --system {system}",
                file=sys.stderr,
            )
    return found


def folder_of(settings: Settings, system: str) -> Path:
    """Where a system's checkpoints and predictions are; InputError, naming the choices, for an unknown one."""
    from stages.train.run import SYSTEMS

    if system not in SYSTEMS:
        raise InputError(
            f"--system: found {system!r}, expected one of {', '.join(SYSTEMS)}{did_you_mean(system, SYSTEMS)}"
        )
    without = f"-without-{settings.train.without}" if settings.train.without else ""
    return ROOT / settings.run.train_dir / settings.dataset / f"{system}{without}"


def _open(settings: Settings, split: str, system: str) -> Split:
    from stages.train.run import columns

    return open_split(settings.store_path, settings.dataset, split, columns=sorted(columns(settings.train, system)))
