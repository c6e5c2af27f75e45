"""A run is one training: a system with its parameters, a language model, data and a seed. It has a name and a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from stages.names import SplitRef, did_you_mean
from stages.predictions import MODES
from stages.train.folder import Held, held, is_external, was_moved
from stages.train.language.prompts import load_prompts
from stages.train.params import TrainParams, overridden
from stages.train.run_digest import SHORT, Difference, differences, identity, system_of
from stages.train.systems import SYSTEMS

EVERY_TEXT = "every-text"
"""The end of the name of answers to every text."""
_ANSWERS = (*MODES, "shuffled-images", "shuffled-questions", EVERY_TEXT)
_CONTROLS = ("-without-image", "-without-question")
"""Ends of the names of runs that were trained without the image or without the question (``train.without``)."""
TAKEN = ("truth", "proposals")
"""Names of the pictures of a question that are not a system's answer, and of their files."""
_SHOWN = 20


@dataclass(frozen=True)
class Run:
    """A run by its name. ``asked``: name as given, which ``train.without`` makes longer. ``declared``: it stands in ``runs``."""

    name: str
    asked: str
    system: str
    params: TrainParams
    folder: Path
    declared: bool

    @property
    def words(self) -> tuple[str, ...]:
        """The options that name it."""
        if self.declared:
            return ("--name", self.asked)
        return ("--system", self.system, *(() if self.asked == self.system else ("--name", self.asked)))

    def answers(self, split: SplitRef, *unusual: str) -> Path:
        """The file of the run's answers to a split, which were given in an unusual way, or in the usual one."""
        return self.folder / "predictions" / split.dataset / f"{'-'.join([split.split, *unusual])}.parquet"


def resolve(settings: Settings, system: str | None, name: str | None, option: str = "--name") -> Run:
    """The run of that name, or that system's own.

    Args:
        system: elisa, llmseg or lisa; may be left out for a key of ``runs`` and for a run that is there already.
        name: a key of ``runs``, or any other name.
        option: of the command line, by which the name was given.

    Raises:
        InputError: there is no such system, it is not the run's, the name says nothing of the system, or its file of prompts
            cannot be used.
    """
    if system is not None and system not in SYSTEMS:
        raise InputError(
            f"--system: found {system!r}, expected one of {', '.join(SYSTEMS)}{did_you_mean(system, SYSTEMS)}"
        )
    asked = name or system
    if asked is None:
        known = ", ".join(settings.runs) or "none yet"
        raise InputError(
            f"expected --system ({', '.join(SYSTEMS)}) or --name (keys of section runs: {known}), such as --system elisa"
        )
    check_name(asked)
    spec = settings.runs.get(asked)
    params = settings.train
    if spec is not None:
        params = overridden(params, {key: value for key, value in spec.items() if key != "system"})
    params = params.model_copy(update={"proposer": params.proposer or settings.proposer})
    control = next((one for one in ("image", "question") if asked.endswith(f"-without-{one}")), params.without)
    if control != params.without:  # it would take the place of the other run's control
        raise InputError(
            f"--name: found {asked!r}, the name of a control; for a control: --set train.without={control}"
        )
    named = asked if asked in SYSTEMS else None if spec is None else spec["system"]
    folder = folder_of(settings, asked, params)
    if is_external(folder):
        raise InputError(
            f"--name: found {asked!r}, under which external predictions are kept in {folder}; expected another name for a training"
        )
    if named is None and system is None:
        found = held(folder)
        named = (system_of(found.about) or None) if found is not None else None
    wanted = named or system
    if wanted is None:
        known = ", ".join(dict.fromkeys([*SYSTEMS, *settings.runs]))
        or_system = f"; or name its system: --system {next(iter(SYSTEMS))}" if option == "--name" else ""
        meant = did_you_mean(asked, [*SYSTEMS, *settings.runs])
        raise InputError(f"{option}: found {asked!r}, expected one of {known}{meant}{or_system}")
    if system is not None and system != wanted:
        raise InputError(f"--system: found {system}, but the run {asked} is of {wanted}")
    if SYSTEMS[wanted].centered and params.mean is None:
        raise InputError(
            f"train.mean: found null, expected the train mean that {wanted} is to learn with; section means has "
            f"{', '.join(settings.means) or 'none yet'}"
        )
    if params.prompts is not None:
        try:
            load_prompts(params.prompts)
        except ValueError as error:
            raise InputError(str(error)) from error
    return Run(folder.name, asked, wanted, params, folder, spec is not None)


def the_trained_one(settings: Settings) -> Run:
    """The run to ask where none is named: the only finished one. Controls, and runs that were moved aside, are not counted.

    Raises:
        InputError: no run is trained, or several are; names them.
    """
    folder = runs_folder(settings)
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    finished = [name for name in there if (found := held(folder / name)) and found.finished]
    names = [name for name in finished if not was_moved(folder / name) and not name.endswith(_CONTROLS)]
    if len(names) == 1:
        return resolve(settings, None, names[0])
    if not names:
        raise InputError(f"no run in {folder} is trained; run: {settings.command('train', '--system', 'elisa')}")
    raise InputError(f"expected --system or --name, as several runs are trained: {', '.join(names)}")


def folder_of(settings: Settings, name: str, params: TrainParams) -> Path:
    """Where a run's checkpoints and predictions are. A control (``train.without``) has a place of its own."""
    without = f"-without-{params.without}" if params.without else ""
    return runs_folder(settings) / (name if name.endswith(without) else f"{name}{without}")


def runs_folder(settings: Settings) -> Path:
    """Where the runs are."""
    return ROOT / settings.run.train_dir


def check_name(name: str, option: str = "--name") -> None:
    """Raise InputError where a run cannot have this name: no folder can have it, or it is reserved for answers of a run."""
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not (
        name[0].isalnum() and name.isascii()
    ):
        raise InputError(f"{option}: found {name!r}, expected letters, digits, dots, dashes and underscores")
    if name in TAKEN:
        raise InputError(f"{option}: found {name!r}, which is the name of a picture on the pages; expected another one")
    if ending := next((end for end in _ANSWERS if name.endswith(f"-{end}")), None):
        raise InputError(
            f"{option}: found {name!r}, but files with answers of a run end like this; expected a name without -{ending} at its end"
        )


def not_the_same(settings: Settings, run: Run, found: Held, differ: Sequence[Difference]) -> InputError:
    """What ``train`` says where another run is in the way."""
    lines = [f"{run.folder} holds {found}; what is asked for is another one:", *_listed(differ)]
    if run.declared:
        lines.append("to keep both, give it another name in section runs of the params")
    else:
        free = _free_name(settings, run)
        lines.append("to keep both: " + settings.command("train", "--system", run.system, "--name", free))
    lines.append("to move the other aside (nothing is deleted): " + settings.command("train", *run.words, "--replace"))
    if not found.finished and (old := as_it_was(run, differ)) is not None:
        lines.append("to go on with the other: " + settings.command(*old, "train", *run.words))
    return InputError("\n".join(lines))


def not_trained(settings: Settings, run: Run, found: Held | None, asking: Sequence[str]) -> InputError | None:
    """Why a run cannot be asked: nothing is trained, or not with these parameters; None where it can.

    Args:
        asking: the words of the command that asks it, its verb first.
    """
    train = settings.command("train", *run.words)
    if found is None:
        return InputError(f"{run.folder}: {run.name} is not trained; run: {train}")
    if not found.about:
        return InputError(f"{run.folder} holds {found}; run: {settings.command('train', *run.words, '--replace')}")
    differ = differences(found.about, identity(run.params, run.system, {}), data=False)
    if not differ:
        return None if found.finished else InputError(f"{run.folder} holds {found}; to go on: {train}")
    lines = [f"{run.folder} holds {found}, not trained with what is asked for:", *_listed(differ)]
    if found.finished and (old := as_it_was(run, differ)) is not None:
        lines.append(f"to {asking[0]} it as it was trained: " + settings.command(*old, *asking))
    lines.append("to train the other: " + settings.command("train", *run.words, "--replace"))
    return InputError("\n".join(lines))


def as_it_was(run: Run, differ: Sequence[Difference]) -> list[str] | None:
    """The options that ask for the older of two runs; None where they differ in more than parameters."""
    if any(one.parameter is None for one in differ):
        return None
    section = f"runs.{run.asked}" if run.declared else "train"
    return [word for one in differ for word in ("--set", f"{section}.{one.parameter}={json.dumps(one.old)}")]


def _listed(differ: Sequence[Difference]) -> list[str]:
    more = [f"  and {len(differ) - _SHOWN} more"] if len(differ) > _SHOWN else []
    return [*(f"  {one}" for one in differ[:_SHOWN]), *more]


def _free_name(settings: Settings, run: Run) -> str:
    number = 2
    while True:
        name = f"{run.asked}-{number}"
        if name not in settings.runs and not folder_of(settings, name, run.params).exists():
            return name
        number += 1


def short(digest: str) -> str:
    """A digest as messages show it."""
    return digest[:SHORT]
