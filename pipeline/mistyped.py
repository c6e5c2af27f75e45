"""What is said of a command line that cannot be read: what was found, what was expected, and what to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

from pipeline.usage import EVERYWHERE, in_front, of_a_parameter, value_of
from stages.names import did_you_mean

_BOUND = re.compile(r"Input should be (greater|less) than or equal to (\S+)")


def told(error: Any, arguments: Sequence[str]) -> str:
    """The message for an error of typer's; where typer words it well, in typer's own words."""
    command = getattr(error, "cmd", None)
    if option := getattr(error, "option_name", None):
        unknown = hasattr(error, "possibilities")
        return _no_such_option(command, option, arguments) if unknown else _no_value(error, command, option)
    if getattr(error, "param", None) is None:
        return str(error.format_message())
    if hasattr(error, "param_type"):
        return _missing(error, command)
    return _out_of_range(error, arguments)


def _no_such_option(command: Any, option: str, arguments: Sequence[str]) -> str:
    said = f"No such option: {option}"
    if isinstance(command, TyperGroup):
        return said + _before_the_verb(command, option, arguments)
    if parameter := of_a_parameter(option, arguments):
        return said + parameter
    known = [name for name in _options(command) if name != "--help"]
    return f"{said}; expected one of {', '.join((*known, *EVERYWHERE))}{did_you_mean(option, (*known, *EVERYWHERE))}"


def _before_the_verb(group: Any, option: str, arguments: Sequence[str]) -> str:
    """The end of a message about an option before the verb: the command with the option after the verb; or else the verbs."""
    words = in_front(arguments)
    verb = next((word for word in words if word in group.commands), None)
    if verb is None or option not in _options(group.commands[verb]):
        return f"; expected a verb first: {', '.join(group.commands)}"
    words.remove(verb)
    return f", expected after the verb: {shlex.join(['python', 'cli.py', verb, *words])}"


def _no_value(error: Any, command: Any, option: str) -> str:
    in_help = re.search(rf"{re.escape(option)} [^-\s`]\S*", getattr(command, "help", None) or "")
    example = in_help[0].rstrip("`") if in_help else None
    return str(error.format_message()).rstrip(".") + (f", such as {example}" if example else "")


def _missing(error: Any, command: Any) -> str:
    """The message for what is missing: what it is, and the first example of the verb's help."""
    expected = (getattr(error.param, "help", None) or "").rstrip(".")
    example = re.search(r"`(python cli\.py [^`]+)`", getattr(command, "help", None) or "")
    return (
        str(error.format_message()).rstrip(".")
        + (f"; expected {expected}" if expected else "")
        + (f", such as: {example[1]}" if example else "")
    )


def _out_of_range(error: Any, arguments: Sequence[str]) -> str:
    option = (error.param.opts or [error.param.name])[0]
    bound = _BOUND.search(error.message)
    if bound is None and "Input should be" not in error.message:
        return str(error.format_message())
    expected = "a number" if bound is None else f"{bound[2]} or {'more' if bound[1] == 'greater' else 'less'}"
    if "integer" in error.message:
        expected = "a whole number"
    return f"{option}: found {value_of(option, arguments)}, expected {expected}"


def _options(command: Any) -> list[str]:
    return [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
