"""How the command line is read: options of every verb, and the message about an unknown option."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_origin

from typer.core import TyperGroup
from typer.exceptions import TyperException

EVERYWHERE = {"--set": True, "--params": True, "--debug": False}
"""Options of every verb -> whether they take a value."""
EXAMPLES = {"--set": "--set embed.max_masks=32", "--params": "--params params/reasonseg.yaml"}
"""Those of them that take a value, as they are given."""
_SECTIONS = {
    "index": ("data",),
    "extract": ("proposers", "embed"),
    "normalize": ("means", "report"),
    "train": ("train",),
    "evaluate": ("train",),
    "ask": ("train",),
    "report": ("report",),
}
"""Verb -> sections of its parameters."""


class Verbs(TyperGroup):
    """The verbs; ``--set``, ``--params`` and ``--debug`` may stand before and after them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments, those options first."""
        if args and EVERYWHERE.get(args[-1]):
            if ctx.resilient_parsing:  # the shell asks what may stand there: an option of all verbs, not of one
                return super().parse_args(ctx, _parted(args[:-1])[0])
            ctx.fail(f"Option '{args[-1]}' requires an argument, such as {EXAMPLES[args[-1]]}")
        return super().parse_args(ctx, in_front(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; add the verb to an error about its options that does not name it."""
        try:
            return super().invoke(ctx)
        except TyperException as error:
            if getattr(error, "cmd", self) is None:
                error.cmd = self.commands.get(ctx.invoked_subcommand)  # type: ignore[attr-defined]
            raise


def in_front(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with the options of every verb before the verb, in the order in which they stood."""
    front, rest = _parted(arguments)
    return front + rest


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of every verb with their values, and the other arguments."""
    front, rest, left = [], [], list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":
            rest += [argument, *left]
            break
        name, equals, _ = argument.partition("=")
        if name not in EVERYWHERE:
            rest.append(argument)
            continue
        front.append(argument)
        if EVERYWHERE[name] and not equals and left:
            front.append(left.pop(0))
    return front, rest


def part_of(text: str | None) -> tuple[int, int] | None:
    """``(i, n)`` of ``--part i/n``; InputError where it is not that."""
    from pipeline.config import InputError

    if text is None:
        return None
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise InputError(f"--part: found {text!r}, expected I/N with I from 0 to N - 1, e.g. 0/4, 1/4, 2/4 and 3/4")
    return int(number), int(count)


def check_setting(setting: str, predictions: Path | None, with_controls: bool) -> None:
    """Raise InputError where ``evaluate --setting`` is given with --predictions or --controls."""
    from pipeline.config import InputError

    if setting == "proposals":
        return
    if predictions is not None:
        raise InputError(
            "evaluate: found --setting with --predictions; it asks a trained system: use --system or --name"
        )
    if with_controls:
        raise InputError("evaluate: found --setting with --controls; controls choose among proposals: leave one out")


def check_all(every_split: bool, predictions: Path | None, with_controls: bool) -> None:
    """Raise InputError where ``evaluate --all`` is given with --predictions or --controls, which are about one split."""
    from pipeline.config import InputError

    if every_split and (predictions is not None or with_controls):
        wrong = "--controls" if with_controls else "--predictions"
        raise InputError(f"evaluate: found --all with {wrong}; --all asks a system about all splits: leave one out")


def check_keep(keep: str | None, predictions: Path | None) -> None:
    """Raise InputError where ``evaluate --keep`` is given with a system, whose answers are kept anyway."""
    from pipeline.config import InputError

    if keep is not None and predictions is None:
        raise InputError(
            "evaluate: found --keep without --predictions; the answers of a trained system are kept by its run's name"
        )


def asks_a_system(run: str | None, predictions: Path | None, of_a_system: bool, threshold: int | None) -> bool:
    """Whether ``evaluate`` asks a trained system; else it reads predictions.

    Args:
        run: system or name of the run.
        of_a_system: whether there are options that only a system understands.
        threshold: of ``--threshold``, which is only for a folder of PNGs.

    Raises:
        InputError: both or neither are given, or an option that belongs to the other.
    """
    from pipeline.config import InputError

    if (run is not None) == (predictions is not None):
        raise InputError("evaluate: expected --system or --name, or else --predictions FILE, such as --system elisa")
    if predictions and of_a_system:
        raise InputError(
            "evaluate: found --mode or --controls with --predictions; they ask a trained system: use --system or --name"
        )
    if run is not None and threshold is not None:
        raise InputError(
            "evaluate: found --threshold with --system or --name; it is for a folder of PNGs: use --predictions FOLDER"
        )
    return run is not None


def of_a_parameter(option: str, arguments: Sequence[str]) -> str:
    """How to set the parameter that an unknown option names; the empty text where it names none."""
    from pipeline.config import Settings
    from pipeline.parameters import children, names

    verb = next((argument for argument in in_front(arguments) if argument in _SECTIONS), "")
    key = option.lstrip("-").replace("-", "_")
    found = [name for name in names(Settings) if name.rpartition(".")[2] == key and not _is_section(name)]
    if not found:
        return ""

    def distance(name: str) -> tuple[bool, int, bool]:
        parts = name.split(".")
        return parts[0] not in _SECTIONS.get(verb, ()), len(parts), not set(parts[1:-1]) & set(arguments)

    name = min(found, key=distance)
    if ".NAME." in name:
        name = name.replace(".NAME.", f".{_first_key(name.partition('.')[0], arguments)}.")
    *section, last = name.split(".")
    value = value_of(option, arguments)
    if get_origin((children(Settings, section) or {})[last]) is tuple:
        value = f"[{value}]"
    return f"; {name} is a parameter: --set {shlex.quote(f'{name}={value}')}"


def _first_key(section: str, arguments: Sequence[str]) -> str:
    """The first key of a section of the params file, whose keys are free; NAME where it cannot be read."""
    import yaml

    front = in_front(arguments)
    path = next((value for name, value in pairwise(front) if name == "--params"), "params.yaml")
    try:
        return str(next(iter(yaml.safe_load(Path(path).read_text(encoding="utf-8"))[section])))
    except (OSError, ValueError, LookupError, TypeError, StopIteration, yaml.YAMLError):
        return "NAME"


def _is_section(name: str) -> bool:
    from pipeline.config import Settings
    from pipeline.parameters import children

    return children(Settings, name.split(".")) is not None


def value_of(option: str, arguments: Sequence[str]) -> str:
    """What was given to the option."""
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == option and equals:
            return value
        if argument == option and number + 1 < len(arguments) and not arguments[number + 1].startswith("--"):
            return arguments[number + 1]
    return "true"
