"""A mistake, what its message has to say, and what happens to whoever types what the message says to type."""

from __future__ import annotations

import re
import shlex
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMAND = re.compile(r"python cli\.py ([^;,\n()`\"]*[^;,\n()`\". ])")
OPTIONS = re.compile(r"these go right after cli\.py: (.*)\)")
RAW = re.compile(
    r"Traceback|internal error|\[Errno|\b[A-Z]\w*(Error|Exception)\b|NoneType|\bNone\b|has no attribute|not subscriptable|"
    r"not iterable|positional argument|unexpected keyword|codec can't|Input should|Extra inputs|<class "
)
"""What Python, and libraries, say of an error, and no person should have to read."""
MEANT = re.compile(r"[Dd]id you mean '?([^'?]+)'?\?")


@dataclass
class Said:
    """What came of something that was typed: an exit code (of Python: the exception, or 0), and the message."""

    code: int | type[BaseException]
    text: str


@dataclass
class Case:
    """A mistake that was made in a project, and its message."""

    mistake: Mistake
    project: Any
    patch: pytest.MonkeyPatch
    typed: str
    said: Said = field(default_factory=lambda: Said(0, ""))

    def run(self, typed: str) -> Said:
        """Type something: words after ``python cli.py``, or Python."""
        return in_python(self.project, typed) if self.mistake.in_python else on_the_command_line(self.project, typed)

    def found(self, pattern: str | re.Pattern[str]) -> str:
        """The first group of what the message says."""
        found = re.search(pattern, self.said.text)
        assert found, f"expected {pattern!r} in: {self.said.text}"
        return found[1]

    def commands(self) -> list[str]:
        """The commands that the message names, each with the options that it says go into it."""
        options = OPTIONS.search(self.said.text)
        named = list(dict.fromkeys(COMMAND.findall(self.said.text)))
        every = [word.removeprefix("python cli.py ") for each in named for word in each.split(" && ")]
        return [f"{options[1] if options else ''} {command}" for command in every]

    def again(self, typed: str | None = None) -> None:
        """Type it again, as it was or as the message says: this time it works."""
        self.patch.undo()
        ends_in_a_server(self.patch)
        typed = self.typed if typed is None else typed
        said = self.run(typed)
        assert said.code == 0, f"{typed}: {said.text}"

    def replace(self, wrong: str, right: str) -> None:
        """Put ``right`` in the place of what was wrong, in what was typed or in the params file, and type it again."""
        if wrong in self.typed:
            self.again(self.typed.replace(wrong, right))
            return
        text = self.project.params.read_text()
        assert wrong in text, f"{wrong} was neither typed nor is it in the params file"
        self.project.params.write_text(text.replace(wrong, right))
        self.again()


Then = Callable[[Case], None]
Made = Callable[[Any, pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mistake:
    """One row of the table.

    Args:
        name: what is wrong, in a few words.
        typed: words after ``python cli.py``, in which $folder, $store and $data are the project's; or Python, if ``code`` is an
            exception.
        says: what the message has to say: what was found, where, and what was expected.
        then: what it says to type, and that this works.
        code: exit code, or the exception of Python.
        made: makes what is wrong before anything is typed.
        on: fixture of the project. ``finished_once`` is shared: whatever is typed may change nothing in it.
    """

    name: str
    typed: str
    says: tuple[str, ...]
    then: Then
    code: int | type[Exception] = 2
    made: Made | None = None
    on: str = "finished_once"

    @property
    def in_python(self) -> bool:
        """Whether Python is typed."""
        return isinstance(self.code, type)


def meant(wrong: str) -> Then:
    """The message asks "did you mean ...?": that in the place of what was wrong."""
    return lambda case: case.replace(wrong, case.found(MEANT))


def instead(wrong: str, pattern: str) -> Then:
    """The first group of the pattern, in the message, in the place of what was wrong."""
    return lambda case: case.replace(wrong, case.found(pattern))


def adds(pattern: str) -> Then:
    """The first group of the pattern, in the message, after what was typed."""
    return lambda case: case.again(f"{case.typed} {case.found(pattern)}")


def without(pattern: str) -> Then:
    """What was typed without the first group of the pattern: the message says to leave it out."""
    return lambda case: case.again(re.sub(rf"{re.escape(case.found(pattern))}(=| )?\S*", "", case.typed, count=1))


def types(*has: str, then_again: bool = True, rounds: int = 1) -> Then:
    """The commands of the message that have any of these words in them, in order; and then the mistaken one works.

    Args:
        then_again: False: the commands are in the place of what was typed.
        rounds: as often as this the mistaken command may name another one first.
    """

    def typing(case: Case) -> None:
        commands = case.commands()
        for words in has:
            assert any(words in command for command in commands), f"{words} is not among {commands}: {case.said.text}"

        def meant_here(command: str) -> bool:
            return any(words in command for words in has)

        case.patch.undo()
        ends_in_a_server(case.patch)
        for number in range(rounds):
            for command in filter(meant_here, case.commands()):
                said = on_the_command_line(case.project, command, named=False)
                assert said.code == 0, f"{command}: {said.text}"
            if number < rounds - 1:
                case.said = case.run(case.typed)
        if then_again:
            case.again()

    return typing


def does(change: Callable[[Case], Any]) -> Then:
    """What a person does who follows the message, such as renaming a file; then the mistaken command works."""

    def doing(case: Case) -> None:
        change(case)
        case.again()

    return doing


def by_hand(why: str) -> Then:
    """What it says to do cannot be done in a test, for this reason."""
    assert why
    return lambda case: None


def ends_in_a_server(patch: pytest.MonkeyPatch) -> None:
    """A server ends as soon as it has begun."""
    patch.setattr("uvicorn.Server.run", lambda *_: None)


def on_the_command_line(project: Any, typed: str, named: bool = True) -> Said:
    """``python cli.py`` in this process; the project's params file is named unless something else is."""
    words = shlex.split(typed)
    done = project.run(*words) if named and "--params" not in words else project.cli(*words)
    return Said(done.code, done.out + done.err)


def in_python(project: Any, typed: str) -> Said:
    """Statements of a program that reads the project's store; the message is that of the exception."""
    import store
    import store.torch

    names = {
        "open_split": store.open_split,
        "mix": store.mix,
        "loader": store.torch.loader,
        "STORE": str(project.store),
        "DATA": str(project.data),
    }
    try:
        exec(typed, names)
    except Exception as error:  # noqa: BLE001 - whatever a program gets is looked at
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        where = traceback.extract_tb(error.__traceback__)[-1]
        assert Path(where.filename).is_relative_to(ROOT / "store"), f"raised by {where}, no check of ours"
        return Said(type(error), text)
    return Said(0, "")


def files_of(store: Path) -> dict[str, tuple[int, int]]:
    """Every file of a store with its size and time."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in store.rglob("*") if path.is_file()}


def check(mistake: Mistake, project: Any, patch: pytest.MonkeyPatch) -> None:
    """Make the mistake, look at the message, and type what it says to type."""
    ends_in_a_server(patch)
    if mistake.made is not None:
        mistake.made(project, patch)
    places = {"folder": project.folder, "store": project.store, "data": project.data}
    case = Case(mistake, project, patch, Template(mistake.typed).safe_substitute(places))
    before = files_of(project.store)
    case.said = case.run(case.typed)
    assert case.said.code == mistake.code, case.said.text
    for words in mistake.says:
        assert words in case.said.text, f"{words!r} is not in: {case.said.text}"
    raw = RAW.search(case.said.text)
    assert raw is None, f"{raw[0]!r} in: {case.said.text}" if raw else ""
    if case.said.code == 2 or mistake.in_python:
        assert files_of(project.store) == before, "a mistake changed the store"
    mistake.then(case)
    if mistake.on == "finished_once":
        assert files_of(project.store) == before, "the shared project was changed"
