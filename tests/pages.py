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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def in_one_process(commands: Sequence[str], root: Path) -> Iterator[tuple[int, str, str]]:
    """Exit code, output and messages of each command, up to the first that fails; torch is imported once for all of them."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(commands)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    yield from map(tuple, json.loads(done.stdout.splitlines()[-1]))


_RUN = """
import contextlib, io, json, shlex, subprocess, sys

sys.path.insert(0, "")

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

found = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(line)
    found.append((code, out.getvalue(), err.getvalue()))
    if code:
        break
print(json.dumps(found))
"""
