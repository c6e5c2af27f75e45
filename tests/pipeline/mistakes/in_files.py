"""Params files that cannot be read, and paths that lead to something else."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from mistakes.mistake import MEANT, ROOT, Case, Made, Mistake, by_hand, does, instead


def params(change: Callable[[str], str | bytes]) -> Made:
    """The params file, changed."""

    def made(project: Any, patch: pytest.MonkeyPatch) -> None:
        found = change(project.params.read_text())
        project.params.write_bytes(found if isinstance(found, bytes) else found.encode())

    return made


def elsewhere(project: Any, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(project.folder / "data")


def a_file(name: str) -> Made:
    return lambda project, patch: (project.folder / name).write_text("what somebody else wrote")


def no_permission(project: Any, patch: pytest.MonkeyPatch) -> None:
    real = os.access
    patch.setattr(os, "access", lambda path, mode: real(path, mode) and not str(path).startswith(str(project.store)))


def on_the_line(case: Case, wrong: str, right: str) -> None:
    """Change the line of the params file that the message names."""
    lines = case.project.params.read_text().splitlines()
    number = int(case.found(r"line (\d+)")) - 1
    assert wrong in lines[number], lines[number]
    lines[number] = lines[number].replace(wrong, right)
    case.project.params.write_text("\n".join(lines))


begun = does(lambda case: case.project.params.write_bytes((ROOT / case.found(r"cp (\S+)")).read_bytes()))


def as_utf8(case: Case) -> None:
    encoding, path = case.found(r"iconv -f (\S+)"), case.project.params
    path.write_text(path.read_bytes().decode(encoding), encoding="utf-8")


LISTED = r"a list: (\[train\])"
NAMED = r"such as (\S+\w)"

# fmt: off
ROWS = (
    # Params files
    Mistake("section misspelt in the file", "info", ("params.yaml: proposer: unknown parameter",),
        lambda case: case.replace("\nproposer:", f"\n{case.found(MEANT)}:"),
        made=params(lambda text: text.replace("proposers:", "proposer:")), on="finished"),
    Mistake("empty file", "info", ("params.yaml: the file is empty", "expected sections"), begun, made=params(lambda text: ""),
        on="finished"),
    Mistake("text without keys", "info", ("params.yaml: found a text", "expected sections and keys"), begun,
        made=params(lambda text: "just a text"), on="finished"),
    Mistake("tab in YAML", "info", ("params.yaml, line 3:", "a tab", "expected spaces"),
        does(lambda case: on_the_line(case, "\t", "  ")),
        made=params(lambda text: text.replace("data:\n  tiny:", "data:\n\ttiny:")), on="finished"),
    Mistake("bracket that is not closed", "info", ("params.yaml, line", "expected ',' or ']'"),
        does(lambda case: on_the_line(case, "[", "")), made=params(lambda text: text.replace("store: ", "store: [")),
        on="finished"),
    Mistake("colon without a space", "info", ("params.yaml, line 1:", "expected a space after the colon"),
        does(lambda case: on_the_line(case, "store:", "store: ")), made=params(lambda text: text.replace("store: ", "store:")),
        on="finished"),
    Mistake("key that appears twice", "info", ("params.yaml, line", "the key 'store' appears twice", "first in line 1"),
        does(lambda case: on_the_line(case, "store:", "#")), made=params(lambda text: f"{text}store: other\n"), on="finished"),
    Mistake("placeholder that nothing filled in", "info", ("params.yaml, line 1:", "in the place of a key", "expected a name"),
        by_hand("what should have filled it in"), made=params(lambda text: "store: {{store}}\n" + text.partition("\n")[2]),
        on="finished"),
    Mistake("another encoding", "info", ("params.yaml: not UTF-8", "expected UTF-8", "iconv -f UTF-16"), does(as_utf8),
        made=params(lambda text: text.encode("utf-16")), on="finished"),
    Mistake("word for a list in the file", "info", ('params.yaml: data.tiny.splits: found "train"', "expected a list"),
        lambda case: case.replace("splits: train", f"splits: {case.found(LISTED)}"),
        made=params(lambda text: text.replace("    splits:\n    - train\n    - val\n", "    splits: train\n")), on="finished"),
    Mistake("params file that is not there", "--params $folder/param.yaml info", ("param.yaml: no such params file",),
        lambda case: case.replace(f"{case.project.folder}/param.yaml", case.found(MEANT))),
    Mistake("folder for a params file", "--params $folder info", ("found a folder", "expected a params file"),
        lambda case: case.replace(f"--params {case.project.folder}", f"--params {case.found(NAMED)}")),
    Mistake("another working directory", "--params params.yaml info", ("params.yaml: no such params file",
        "the repository root"), does(lambda case: os.chdir(case.found(r"cd (\S+)"))), made=elsewhere),
    # Files and folders
    Mistake("file for a store", "info --set store=$folder/params.yaml", ("store: found a file", "params.yaml",
        "expected a folder"), instead("/params.yaml", r"\S+(/store)\b")),
    Mistake("file for a store, to index", "index --set store=$folder/params.yaml", ("store: found a file", "params.yaml",
        "expected a folder"), instead("/params.yaml", r"\S+(/store)\b")),
    Mistake("misspelt store", "info --set store=$folder/stroe", ("store: there is no folder", "stroe", "folders in"),
        lambda case: case.replace(f"{case.project.folder}/stroe", case.found(MEANT))),
    Mistake("file for a report", "report --split val --out $folder/taken", ("taken", "found a file", "expected a folder"),
        lambda case: case.replace(f"{case.project.folder}/taken", case.found(NAMED)), made=a_file("taken"), on="finished"),
    Mistake("file for a folder of runs", "train --system elisa --set run.train_dir=$folder/taken", ("run.train_dir",
        "found a file", "expected a folder"), by_hand("any folder that one likes"), made=a_file("taken"), on="finished"),
    Mistake("Windows path of a store", "index --set 'store=C:\\store'", ("store: found the Windows path 'C:\\store'",
        "expected"), by_hand("a disk of Windows")),
    Mistake("Windows path of a data set", "index --set 'data.tiny.root=C:\\data'", ("data.tiny.root: found the Windows path",
        "/mnt/c/data"), by_hand("a disk of Windows")),
    Mistake("Windows path in double quotes", "info", ("params.yaml, line 1:", "backslash", "single quotes"),
        by_hand("a disk of Windows"), made=params(lambda text: 'store: "C:\\data\\store"\n' + text.partition("\n")[2]),
        on="finished"),
    Mistake("no permission", "extract --set proposers.sam.points_per_side=3 --replace", ("nothing was changed",
        "may not write there"), by_hand("whoever owns the folder"), made=no_permission, on="finished"),
)
# fmt: on
