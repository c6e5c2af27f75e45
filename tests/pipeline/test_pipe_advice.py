"""Every command that a message names works when typed: the source is searched for them, and each has a state that prints it."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"python cli\.py ([^;,\n()`\"]*[^;,\n()`\". ])")
OPTIONS = re.compile(r"these go right after cli\.py: (.*)\)")
OTHER_MASKS = ("--set", "proposers.sam.points_per_side=3")


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


def not_indexed(project: Any) -> Any:
    return project.run("extract", "--split", "val")


def masks_missing(project: Any) -> Any:
    project.build("index --split val")
    return project.run("extract", "--split", "val", "--stage", "match")


def everything_missing(project: Any) -> Any:
    project.build("index")
    return project.run("normalize")


def changed_after_the_index(project: Any) -> Any:
    project.build("index --split val")
    project.add_image("val", "gnu", 51)
    return project.run("extract", "--split", "val", "--stage", "masks")


def first_dry_run(project: Any) -> Any:
    project.build("index --split val")
    return project.run("extract", "--split", "val", "--stage", "masks", "--dry-run")


def finished_shards(project: Any) -> Any:
    return project.run("extract", "--split", "val", before=OTHER_MASKS)


def finished_shards_in_a_dry_run(project: Any) -> Any:
    return project.run("extract", "--split", "val", "--stage", "masks", "--dry-run", before=OTHER_MASKS)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def a_flipped_bit(project: Any) -> Any:
    flip(project.store / "tiny/masks/sam/val/00001.parquet")
    return project.run("verify", "--deep", "--split", "val")


def a_flipped_bit_that_a_stage_reads(project: Any) -> Any:
    flip(project.store / "tiny/masks/sam/val/00001.parquet")
    (project.store / "tiny/match/sam/targets/val/00001.parquet").unlink()
    return project.run("extract", "--split", "val")


def pictures_are_missing(project: Any) -> Any:
    shutil.rmtree(next((project.folder / "report").rglob("similarity")))
    return project.run("report", "--split", "val")


STATES: dict[str, tuple[str, Callable[[Any], Any], tuple[str, ...]]] = {
    "not indexed": ("tiny", not_indexed, ("index {}",)),
    "masks are missing": ("tiny", masks_missing, ("extract {}{}{}",)),
    "everything is missing": ("tiny", everything_missing, ("extract {}{}{}",)),
    "changed after the index": ("tiny", changed_after_the_index, ("index {}",)),
    "a first dry run": ("tiny", first_dry_run, ("extract {} --limit 1{}",)),
    "finished shards": ("finished", finished_shards, ("{} --replace",)),
    "finished shards, dry": (
        "finished",
        finished_shards_in_a_dry_run,
        ("extract {} --replace", "extract {} --limit 1{}"),
    ),
    "a flipped bit": ("finished", a_flipped_bit, ("verify --repair{}",)),
    "a flipped bit that a stage reads": ("finished", a_flipped_bit_that_a_stage_reads, ("verify --repair{}",)),
    "pictures are missing": ("finished", pictures_are_missing, ("normalize",)),
}
"""State -> the project it begins with, what prints the commands, and the commands (as in the source) that it prints."""

BIG = {
    "evaluate": "the name of a verb",
    "index": "the name of a verb",
    "info": "no gap is left when it is printed",
    "demo --train-models": "two hours",
    "data NAME --unpack FOLDER": "files of the hub",
    "index --data {}": "a collection that lists only what is asked about: test_pipe_images types it",
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
    known = {*BIG, *(command for _, _, printed in STATES.values() for command in printed)}
    unknown = {command: files for command, files in commands().items() if command not in known}
    assert unknown == {}, "add a state that prints it to STATES (or to BIG, if that takes too much)"
    assert known - set(commands()) == set(), "no message names it any more: remove it here"


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


def bare(command: str) -> str:
    """A command without what stands between cli.py and the verb."""
    words = shlex.split(command.removeprefix("python cli.py "))
    while words and words[0] in ("--params", "--set"):
        words = words[2:]
    return " ".join(words)


@pytest.mark.parametrize("name", STATES)
def test_a_command_works_when_typed(request: pytest.FixtureRequest, name: str) -> None:
    fixture, prepare, templates = STATES[name]
    project = request.getfixturevalue(fixture)
    done = prepare(project)
    said = done.out + done.err
    options = OPTIONS.search(said)
    given = shlex.split(options[1]) if options else []
    found = list(dict.fromkeys(COMMAND.findall(said)))
    assert given or all(bare(command) != command for command in found), "the params file has to be typed too"
    for template in templates:
        pattern = re.escape(template).replace(r"\{\}", ".*")
        mine = [command for command in found if any(re.fullmatch(pattern, bare(p)) for p in command.split(" && "))]
        assert mine, f"{template} is not in: {said}"
        typed = f"python cli.py {mine[0]}".split(" && ")
        for command in typed:
            words = shlex.split(command.removeprefix("python cli.py "))
            result = project.cli(*given, *words)
            assert result.code == 0, f"{command}: {result.out}{result.err}"
    again = prepare(project) if fixture == "tiny" and name != "a first dry run" else None
    if again is not None:
        assert not set(COMMAND.findall(again.out + again.err)) & set(found), "what was typed changed nothing"
