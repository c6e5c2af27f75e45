"""What a shell offers at TAB, asked by the shells themselves."""

from __future__ import annotations

import importlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from pipeline import completion
from pipeline.completion import OF_OPTIONS, OF_VERBS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "TERM": "xterm"}
FISH = 'source {script}; complete -C "{line}"'
BASH = """
source {script}
COMP_LINE="{line}" COMP_POINT={length} COMP_WORDS=({words}) COMP_CWORD={last}
_elisa_store "${{COMP_WORDS[0]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
PARAMS = {
    "data": {"cats": {"splits": ["train", "odd"]}, "dogs": {"splits": ["train"]}},
    "proposers": {"fine": {"model": "sam_vit_h"}, "coarse": {"kind": "grid"}},
    "embed": {"mask_encoders": ["dino"], "image_encoders": ["clip"]},
    "runs": {"first": {"system": "elisa"}},
    "questions": {"asked": {}},
    "run": {"train_dir": "trained"},
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the command line, and params of its own."""
    (tmp_path / "cli.py").symlink_to(ROOT / "cli.py")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "trained/second").mkdir(parents=True)
    for shell in completion.SHELLS:
        (tmp_path / f"completion.{shell}").write_text(completion.script(shell))
    return tmp_path


def asked(folder: Path, line: str, shell: str = "protocol") -> list[str]:
    """What is offered at the end of the line, without explanations."""
    words, script = line.split(" "), folder / f"completion.{shell}"
    environment, command = ENVIRONMENT, [sys.executable, "cli.py"]
    if shell == "protocol":
        given = line.removeprefix("python ")
        about = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": given}
        environment = {**ENVIRONMENT, completion.VARIABLE: "complete_fish", **about}
    elif shell == "fish":
        command = ["fish", "--no-config", "-c", FISH.format(script=script, line=line)]
    elif shell == "bash":
        told = {"length": len(line), "words": " ".join(f"'{word}'" for word in words), "last": len(words) - 1}
        command = ["bash", "--norc", "-c", BASH.format(script=script, line=line, **told)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [found.partition("\t")[0] for found in done.stdout.splitlines() if found]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("extr", ["extract"]),
        ("info --data ", ["cats", "dogs"]),
        ("info --data cats,", ["cats,dogs"]),
        ("info --split=", ["train", "odd"]),
        ("extract --proposer f", ["fine"]),
        ("extract --encoder ", ["dino", "clip"]),
        ("extract --stage m", ["masks", "match"]),
        ("normalize --stage ", ["means", "center"]),
        ("train --name ", ["first", "second"]),
        ("train --from s", ["second"]),
        ("import file.npz --name ", []),
        ("compare ", ["first", "second"]),
        ("data c", ["cats"]),
        ("questions ", ["asked"]),
        ("weights sam_vit_", ["sam_vit_b", "sam_vit_l", "sam_vit_h"]),
        ("train --set train.see", ["train.seed="]),
        ("--set proposers.fine.points_per_s", ["proposers.fine.points_per_side="]),
        ("--params nosuch.yaml info --data ", []),
        ("info --data nosuch --split o", ["odd"]),
        ("verify --de", ["--deep"]),
    ],
)
def test_names_come_from_the_params_file(checkout: Path, line: str, offered: list[str]) -> None:
    found = asked(checkout, f"python cli.py {line}")
    assert sorted(found) == sorted(offered)


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_the_shell_asks_and_offers(checkout: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert sorted(asked(checkout, "python cli.py ex", shell)) == ["export", "extract"]
    assert sorted(asked(checkout, "python3 ./cli.py info --split ", shell)) == ["odd", "train"]
    files = asked(checkout, "python cli.py --params par", shell)
    assert files == (
        [] if shell == "bash" else ["params.yaml"]
    )  # bash itself goes on with files, where nothing is offered


def test_zsh_asks_and_offers(checkout: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    child, end = pty.fork()
    if child == 0:
        os.chdir(checkout)
        os.execvpe("zsh", ["zsh", "-f", "-i"], ENVIRONMENT | {"PS1": "> "})
    try:
        typed(end, "autoload -Uz compinit; compinit -u -D; source completion.zsh; print rea''dy\n", "ready")
        typed(end, "python cli.py info --spl\t", "--split ")
        typed(end, "o\t", "odd ")
        typed(end, "--js\t", "--json")
    finally:
        os.close(end)
        os.waitpid(child, 0)


def typed(end: int, keys: str, expected: str) -> None:
    """Type, and wait until the terminal shows what is expected."""
    os.write(end, keys.encode())
    shown, deadline = "", time.monotonic() + 60
    while expected not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([end], [], [], 0.1)[0]:
            shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(end, 65536).decode(errors="replace"))


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_another_cli_py_is_not_run(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    (tmp_path / f"completion.{shell}").write_text(completion.script(shell))
    (tmp_path / "cli.py").write_text('"""Deletes everything."""\nopen("run", "w")\n')
    asked(tmp_path, "python cli.py ", shell)
    assert not (tmp_path / "run").exists()
    assert "ELISA feature store" in (ROOT / "cli.py").read_text().splitlines()[0]  # by which the scripts know it


def test_tab_loads_neither_torch_nor_the_settings(checkout: Path) -> None:
    about = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "cli.py info --data "}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "cli.py"], cwd=checkout, check=False, capture_output=True, text=True,
        env={**ENVIRONMENT, completion.VARIABLE: "complete_fish", **about},
    )  # fmt: skip
    assert done.stdout.split() == ["cats", "dogs"]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not {"torch", "numpy", "pyarrow", "pipeline.config"} & loaded


def test_every_name_is_one_of_the_command_line() -> None:
    group: Any = typer.main.get_command(importlib.import_module("cli").app)
    options = {param.opts[0] for command in (group, *group.commands.values()) for param in command.params}
    assert OF_OPTIONS.keys() <= options
    of_verbs = {f"{verb} {param.opts[0]}" for verb, command in group.commands.items() for param in command.params}
    assert OF_VERBS.keys() <= of_verbs


def test_the_words_are_those_that_the_options_take() -> None:
    from pipeline.commands.evaluate import MISSING
    from pipeline.commands.normalize import STAGES
    from pipeline.graph import EXTRACTED
    from stages.evaluate.protocols import PROTOCOLS
    from stages.export import FORMATS
    from stages.export.content import PICTURES, WHATS
    from stages.predictions import MODES, SETTINGS, TEXTS

    known = {
        "--missing": MISSING, "--mode": MODES, "--pictures": PICTURES, "--protocol": PROTOCOLS, "--setting": SETTINGS,
        "--texts": TEXTS, "--to": FORMATS, "--what": WHATS,
    }  # fmt: skip
    context: Any = None
    assert {name: sorted(OF_OPTIONS[name](context)) for name in known} == {
        name: sorted(words) for name, words in known.items()
    }
    for verb, words in (("extract", EXTRACTED), ("normalize", STAGES)):
        found = OF_VERBS[f"{verb} --stage"]
        assert found is not None
        assert sorted(found(context)) == sorted(words)


def test_an_unknown_shell_is_named() -> None:
    from pipeline.config import InputError

    with pytest.raises(InputError, match=r"completion: found 'csh', expected bash, zsh or fish"):
        completion.script("csh")
