"""Pages of docs/ that tell what to paste and what to type: their blocks, put into a copy of the code and run there.

A block of a file follows a line that says where it goes, and that ends in "PATH, a new file:" or in "PATH, below LINE:" (or above,
or in place of), path and line in backticks. A ``bash`` block is commands, and the ``text`` block after it what the last one prints,
with ``...`` for what differs between machines.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.third_party import THIRD_PARTY

NAMES = ("add_a_data_set", "add_a_proposer", "add_an_encoder", "add_a_system", "add_a_storage")
"""Pages of docs/ whose every block is pasted or typed by tests/test_adding.py."""
_BLOCK = re.compile(r"(?P<lead>(?:^(?!```)[^\n]+\n)*)\n```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_PLACE = re.compile(
    r"`(?P<path>[\w./-]+)`, (?:a (?P<new>new) file|(?P<how>below|above|in place of) `(?P<line>[^`]+)`)[.:]?$"
)


@dataclass(frozen=True)
class Edit:
    """Text that goes into a file: a new one, or at the only line that reads so."""

    path: str
    how: str
    line: str
    text: str

    def make(self, root: Path) -> None:
        path = root / self.path
        if self.how == "new":
            assert not path.exists(), f"{self.path} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.text, encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (at,) = [number for number, line in enumerate(lines) if line.strip() == self.line]
        start, end = {"below": (at + 1, at + 1), "above": (at, at), "in place of": (at, at + 1)}[self.how]
        gap = ["\n", "\n"] if self.how == "above" and self.line.startswith("class ") else []
        path.write_text("".join([*lines[:start], self.text, *gap, *lines[end:]]), encoding="utf-8")


@dataclass(frozen=True)
class Page:
    """edits: what is pasted. commands: what is typed, in order. printed: of some of them, by number, what they print."""

    edits: Sequence[Edit]
    commands: Sequence[str]
    printed: dict[int, str]


def read_page(path: Path) -> Page:
    edits, commands, printed = [], list[str](), dict[int, str]()
    for lead, kind, text in _BLOCK.findall(path.read_text(encoding="utf-8")):
        place = _PLACE.search(" ".join(lead.split()))
        if kind == "bash":
            commands += text.splitlines()
        elif kind == "text":
            printed[len(commands) - 1] = text
        else:
            assert place is not None, f"{path.name}: nothing says where this block goes, after {lead!r}"
            edits.append(Edit(place["path"], place["new"] or place["how"], place["line"] or "", text))
    return Page(edits, commands, printed)


class Typist:
    """Types commands, each list of them in a process of its own, which begins with what most commands import.

    A list is a fork of one process that has imported :data:`tests.third_party.THIRD_PARTY`, so torch is loaded once for all lists.
    The code of a folder is imported by the fork alone.
    """

    def __init__(self) -> None:
        words = [sys.executable, "-c", _RUN, *THIRD_PARTY]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Typist:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def type(self, commands: Sequence[str], root: Path) -> Sequence[tuple[int, str, str]]:
        """Exit code, output and messages of each command, up to the first that fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(root), commands]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer.startswith("["), f"no answer to {commands}: found {answer!r}; stderr has the traceback"
        return [(code, out, err) for code, out, err in json.loads(answer)]


_RUN = """
import contextlib, gc, importlib, io, json, os, shlex, subprocess, sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever prints past sys.stdout is no answer
for name in sys.argv[1:]:
    importlib.import_module(name)
gc.freeze()  # else a collection in a fork copies the memory of all modules

def run(line):
    words = shlex.split(line, comments=True)
    if words[:2] == ["python", "cli.py"]:
        from cli import main
        sys.argv = words[1:]
        return main()
    if words[:2] == ["python", "-c"]:
        return exec(words[2], {}) or 0
    done = subprocess.run([sys.executable if word == "python" else word for word in words], capture_output=True, text=True)
    print(done.stdout)
    print(done.stderr, file=sys.stderr)
    return done.returncode

def type_in(root, commands):
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(root)
    sys.path[:0] = [""]
    for line in commands:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(line)
        yield code, out.getvalue(), err.getvalue()
        if code:
            return

for job in sys.stdin:
    if not (child := os.fork()):
        print(json.dumps([*type_in(*json.loads(job))]), file=answers, flush=True)
        os._exit(0)  # taking all modules down would take seconds
    if os.waitpid(child, 0)[1]:
        print("failed", file=answers, flush=True)
"""
