"""Trains a system on the store, and has it answer the questions of a split."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from pipeline.config import InputError, Settings
from pipeline.errors import CTRL_C, INTERRUPTED, StoppedError, Terminated
from pipeline.leaks import left_out
from pipeline.runs import EVERY_TEXT, Run, not_the_same, not_trained, resolve, runs_folder
from pipeline.shard import require_device
from pipeline.trained import open_columns, weights_of
from pipeline.unlisted import require_any_listed, require_drawn, require_listed
from stages.names import SplitRef
from stages.train.folder import TRAINED, held, kept
from stages.train.run_digest import LeftOut, answering, column_digest, differences, identity, run_digest, system_of
from store import Split


def train_command(
    settings: Settings,
    system: str | None = None,
    name: str | None = None,
    restart: bool = False,
    replace: bool = False,
    start: str | None = None,
) -> str:
    """Train, or go on where a run was stopped; a finished run is left as it is.

    Args:
        system, name: as :func:`pipeline.runs.resolve`.
        restart: whatever run is in the folder is moved aside, also this one.
        replace: another run in the folder is moved aside.
        start: what ``--from`` named, which is ``train.start`` as well.

    Returns:
        Where the result is, and the command that measures it.

    Raises:
        InputError: the folder holds another run, or the parameters do not fit the store.
        StoppedError: it was interrupted; says what is kept.
    """
    run = resolve(settings, system, name)
    if start is not None and run.params.start != start:
        raise InputError(
            f"--from: found {start}, but runs.{run.asked} of the params begins with {run.params.start} (its own start); "
            "change it there, or give the run another name"
        )
    again = "run the same command again"
    with _told(f"train {run.name}", lambda: f"nothing was changed; {again}"):
        trained_on = _trained_on(settings, run)
        some_lack = require_any_listed(settings, run, trained_on)
        splits = {str(split): open_columns(settings, run, split) for split in trained_on}
        without, begins = _left_out(settings, run, trained_on), _start(settings, run)
        if some_lack:
            require_drawn(settings, run, splits, without)
        found = held(run.folder)
        differ = (
            differences(found.about, identity(run.params, run.system, splits, without, begins))
            if found and found.about
            else []
        )
        another = found is not None and (bool(differ) or not found.about)
    measure = settings.command("evaluate", *run.words, *settings.words(settings.evaluated[-1]))
    if found is not None and not restart:
        if another and not replace:
            raise not_the_same(settings, run, found, differ)
        if found.finished and not another:
            afresh = settings.command("train", *run.words, "--restart")
            done = f"{run.folder}: trained with these parameters on these data already"
            return f"{done}; {measure} measures it; {afresh} trains again"
    before = _inode(run.folder) if another or restart else None

    def left() -> str:
        if before is not None and _inode(run.folder) == before:
            return f"{run.folder} is as it was; {again}"
        go_on = f"to go on: {settings.command('train', *run.words)}" if restart else f"{again} to go on"
        return f"{kept(run.folder)}; {go_on}"

    with _told(f"train {run.name}", left):
        path = _trained(settings, run, splits, without, begins, restart, replace)
    return f"{path}: trained; {measure} measures it"


def _trained_on(settings: Settings, run: Run) -> tuple[SplitRef, ...]:
    if not run.params.splits:
        raise InputError(f"train.train: found no split, expected some of {', '.join(map(str, settings.splits))}")
    try:
        splits = settings.refs("train.mixture" if run.params.mixture else "train.train", run.params.splits)
    except ValueError as error:
        raise InputError(str(error)) from error
    settings.require_questions(*splits)
    return splits


def _left_out(settings: Settings, run: Run, splits: Sequence[SplitRef]) -> LeftOut:
    """Pictures that ``train.leaks`` leaves out; on stderr how many of each split, and which splits it cannot protect."""
    found = left_out(settings, splits, run.params.leaks, run.params.leaks_pixels)
    for name, images in found.images.items():
        print(
            f"train: {len(images)} pictures of {name} are left out, as splits that are not trained on have them too (train.leaks "
            f"{run.params.leaks}; {settings.command('leaks', '--run', run.asked, '--json')} says which)",
            file=sys.stderr,
        )
    if found.not_indexed:
        names = ", ".join(map(str, found.not_indexed))
        print(
            f"train: pictures of {names} are not left out, as these splits are not indexed; to protect them: "
            f"{settings.command('index')}, then this command again",
            file=sys.stderr,
        )
    return found.images


def _start(settings: Settings, run: Run) -> Path | None:
    """The weights that a run begins with. Raises InputError where ``train.start`` names no finished run of its system."""
    if run.params.start is None:
        return None
    first = resolve(settings, None if run.params.start in settings.runs else run.system, run.params.start)
    folder = runs_folder(settings) / run.params.start
    found = held(folder)
    said = f"train.start: found {run.params.start!r}"
    if first.name == run.name:
        raise InputError(f"{said}, the run itself; expected another one (--name names this one)")
    if found is None or not found.finished:
        command = settings.command("--set", "train.start=null", "train", *first.words)
        raise InputError(f"{said}, which is not a finished run in {folder.parent}; run: {command}")
    if system_of(found.about) != run.system:
        raise InputError(f"{said}, a run of {system_of(found.about)}; expected one of {run.system}")
    return folder / TRAINED


def _trained(
    settings: Settings,
    run: Run,
    splits: dict[str, Split],
    without: LeftOut,
    start: Path | None,
    restart: bool,
    replace: bool,
) -> Path:
    from stages.train.run import train

    try:
        return train(
            run.params,
            run.system,
            splits,
            run.folder,
            require_device(settings),
            weights_of(settings),
            restart,
            replace,
            without=without,
            start=start,
        )
    except ValueError as error:  # a model that is not there, parameters that do not fit it
        raise InputError(f"train {run.name}: {error}") from error


def _inode(folder: Path) -> int | None:
    """What tells a folder from another one that takes its name later; None if the folder is missing."""
    return folder.stat().st_ino if folder.exists() else None


def answers(
    settings: Settings,
    run: Run,
    split: SplitRef,
    mode: str = "generated",
    given: str = "own",
    setting: str = "proposals",
    texts: str = "first",
) -> Path:
    """The answers of a trained system to a split's questions, generated again.

    Args:
        mode: ``generated``, or ``teacher_forced``: the answer ``[SEG].`` is in the input.
        given: ``own``, or ``shuffled-images`` or ``shuffled-questions``: questions about each other's images.
        setting: ``proposals``, or ``proposals+gt``: the annotated instances are offered, too (ELISA's published choices).
        texts: ``first``, or ``every``: which texts of each target are asked.

    Returns:
        The file of predictions; its system is the run's name, with ``mode``, ``given``, ``setting`` and ``every-text`` where these
        are not the usual ones.

    Raises:
        InputError: it was not trained with these parameters and this language model, or has no such mode.
        StoppedError: it was interrupted; nothing is written.
    """
    from stages.predictions import MODES, SETTINGS, TEXTS, Meta, write

    for option, value, choices in (("mode", mode, MODES), ("setting", setting, SETTINGS), ("texts", texts, TEXTS)):
        if value not in choices:
            raise InputError(f"--{option}: found {value!r}, expected one of {', '.join(choices)}")
    found = held(run.folder)
    refused = not_trained(settings, run, found, ("evaluate", *run.words, *settings.words(split)))
    if refused is not None:
        raise refused
    assert found is not None
    require_listed(settings, [split])
    opened = open_columns(settings, run, split)
    named = "first" if texts == "first" else EVERY_TEXT
    usual = ((mode, "generated"), (given, "own"), (setting, "proposals"), (named, "first"))
    unusual = [part for part, default in usual if part != default]
    path = run.answers(split, *unusual)
    meta = Meta(
        "-".join([run.name, *unusual]),
        split.dataset,
        split.split,
        mode,
        setting,
        run_digest(found.about),
        json.dumps(answering(run.params, run.system)),
        json.dumps({column.place: column_digest(column) for column in opened.columns.values()}),
        texts,
    )
    with _told(f"evaluate {run.name}", lambda: "no answers are written; run the same command again"):
        from stages.train.run import predict, restore

        try:
            trained = restore(
                run.params, run.system, opened, run.folder, require_device(settings), weights_of(settings)
            )
            how: dict[str, Any] = {"mode": mode, "given": given, "setting": setting, "texts": texts}
            said = predict(trained, opened, **how)
            write(path, meta, said)
        except ValueError as error:  # another model or column than it was trained with, no such mode, too few images
            raise InputError(f"evaluate {run.name}: {error}") from error
    return path


def controls(settings: Settings, run: Run, split: SplitRef) -> list[Path]:
    """Answers of the controls: the system with images or questions shuffled, and the same system trained without the image or
    without the question, if there is such a run (``train.without``)."""
    from stages.train.controls import SHUFFLED, Without

    found = [answers(settings, run, split, given=given) for given in SHUFFLED]
    for without in get_args(Without):
        section = f"runs.{run.asked}" if run.declared else "train"
        other = blind(settings, run, without)
        if not_trained(settings, other, held(other.folder), ("evaluate", *other.words)) is None:
            found.append(answers(settings, other, split))
        else:
            train = settings.command("--set", f"{section}.without={without}", "train", *run.words)
            print(f"{run.name} was not trained without the {without}; to have that row: {train}", file=sys.stderr)
    return found


def blind(settings: Settings, run: Run, without: str) -> Run:
    """The same run without the image or without the question."""
    if run.declared:
        spec = {**settings.runs[run.asked], "without": without}
        return resolve(settings.model_copy(update={"runs": {**settings.runs, run.asked: spec}}), None, run.asked)
    train = settings.train.model_copy(update={"without": without})
    return resolve(settings.model_copy(update={"train": train}), run.system, run.asked)


@contextmanager
def _told(what: str, state: Callable[[], str]) -> Iterator[None]:
    """Let an interruption say what is kept of a run, which is not what the store has committed."""
    try:
        yield
    except BaseException as error:
        found = _interruption(error)
        if found is None:
            raise
        code, reason = found
        raise StoppedError(code, f"{what}: {reason}; {state()}") from error


def _interruption(error: BaseException) -> tuple[int, str] | None:
    """Exit code and reason of an error after which the same command goes on; None for any other."""
    if isinstance(error, KeyboardInterrupt):
        return CTRL_C, "stopped by Ctrl-C"
    if isinstance(error, Terminated):
        return INTERRUPTED, "stopped by SIGTERM"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return INTERRUPTED, f"out of memory: {error} (a smaller train.batch_size needs less, but makes another run)"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return INTERRUPTED, f"the disk is full: {error}; free some space"
    return None
