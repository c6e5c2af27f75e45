"""Every command that a message names works when typed: the source is searched for them, and each is typed by a row of a table."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from mistakes.mistake import COMMAND
from mistakes.table import ROWS

ROOT = Path(__file__).resolve().parents[2]


def _text(node: ast.AST) -> str | None:
    """A string as the source has it; what is filled in stands as {}."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return (_text(node.left) or "{}") + (_text(node.right) or "{}")
    return None


def commands_in(source: str) -> Iterator[str]:
    """The commands that the strings of a module name; docstrings and help texts are for :mod:`tests.test_docs`."""
    tree = ast.parse(source)
    passed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr):
            passed.add(node.body[0].value)
        if isinstance(node, ast.JoinedStr | ast.BinOp):
            passed |= {part for part in ast.walk(node) if part is not node and _text(node) is not None}
    for node in ast.walk(tree):
        if node not in passed and (text := _text(node)):
            yield from (found[1] for found in COMMAND.finditer(text))


def commands() -> dict[str, list[str]]:
    """Command -> the files that name it."""
    found: dict[str, list[str]] = {}
    files = [
        path for package in ("pipeline", "demo", "stages", "store") for path in sorted((ROOT / package).rglob("*.py"))
    ]
    for path in [*files, ROOT / "cli.py"]:
        for command in commands_in(path.read_text()):
            found.setdefault(command, []).append(path.relative_to(ROOT).as_posix())
    return found


TYPED = {
    "index {}": "stores: extract before index",
    "extract {}{}{}": "stores: embed before masks",
    "{} --replace": "stores: other parameters for finished shards",
    "extract {} --replace": "stores: other parameters in a dry run",
    "extract {} --limit 1{}": "stores: time of a first extract",
    "verify --repair{}": "stores: damaged shard",
    "normalize": "stores: pictures of a report that are gone",
    "index --data {}": "data: borrower before its holder",
}
"""Command as in the source -> the row of ``mistakes/table.py`` whose message has it, and in whose test it is typed."""

BIG = {
    "evaluate": "the name of a verb",
    "index": "the name of a verb",
    "info": "no gap is left when it is printed",
    "demo --train-models": "two hours",
    "data NAME --unpack FOLDER": "files of the hub",
    "questions": "models behind an endpoint: test_pipe_questions types it",
    "questions NAME": "models behind an endpoint",
    "weights {}": "the network",
    "weights lists every file": "words after it",
    "weights {} --from FILE": "a file that a person fetched",
    "weights {} --from {} --replace": "a file that a person fetched",
    "weights NAME --from FILE": "a file that a person fetched",
    "weights NAME --from FILE --replace": "a file that a person fetched",
    "import FILE --name NAME": "files of another program: test_pipe_import types it",
    "--help shows the verbs and their options": "words after it",
}
"""Commands that are parsed only, and what executing them would take."""

EXAMPLES = {"--set train.without={}": "image", "--system {}": "elisa", "--split {}": "val", "--stage {}": "masks"}


def test_every_command_of_every_message_is_known_here() -> None:
    known = {*BIG, *TYPED}
    unknown = {command: files for command, files in commands().items() if command not in known}
    assert unknown == {}, (
        "add a mistake whose message has it to the table, and to TYPED (or to BIG, if it takes too much)"
    )
    assert known - set(commands()) == set(), "no message names it any more: remove it here"
    assert {*TYPED.values()} <= {*ROWS}


def written_with_options() -> list[list[str]]:
    """The words of every ``settings.command(...)``, which names the options that were given; a variable is None."""
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "command":
                found.append([_text(word) or "{}" for word in node.args if not isinstance(word, ast.Starred)])
    return [words for words in found if words and words[0] != "{}"]


def test_commands_that_are_written_with_their_options_parse() -> None:
    verbs = typer.main.get_command(__import__("cli").app).commands  # type: ignore[attr-defined]
    for given in written_with_options():
        verb, *words = given[next(number for number, word in enumerate(given) if word in verbs) :]
        options = {option for parameter in verbs[verb].params for option in parameter.opts} | {"--set", "--params"}
        assert {word for word in words if word.startswith("--")} <= options, (verb, words)


@pytest.mark.parametrize("command", BIG)
def test_a_command_that_takes_much_is_parsed(command: str) -> None:
    words = shlex.split(re.sub(" (lists every file|shows the verbs and their options)$", "", command))
    words = [word.strip("[]") for word in words if word != "&&"]
    filled = []
    for before, word in zip(["", *words], words, strict=False):
        filled.append(word.format(EXAMPLES.get(f"{before} {word}", "image" if "=" in word else "sam_vit_h")))
    group = typer.main.get_command(__import__("cli").app)
    if "--help" in filled:
        assert filled == ["--help"]
        return
    if filled == ["evaluate"]:
        filled += ["--split", "val"]
    context = group.make_context("cli.py", list(filled))
    name, verb, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    assert verb is not None
    verb.make_context(name, rest, parent=context)
