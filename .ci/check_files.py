"""Checks the files named on the command line: text ends with one newline, nothing but the demo models is large."""

from __future__ import annotations

import sys
from pathlib import Path

MAX_BYTES = 1_000_000
LARGE = ("demo/models/", "tests/data/")


def problem(path: Path) -> str | None:
    """What is wrong with a file, or None."""
    data = path.read_bytes()
    if len(data) > MAX_BYTES and not path.as_posix().startswith(LARGE):
        return f"found {len(data)} bytes, expected at most {MAX_BYTES}"
    if data and b"\0" not in data and (not data.endswith(b"\n") or data.endswith(b"\n\n")):
        return "expected exactly one line break at its end"
    return None


def main(names: list[str]) -> int:
    """Print a line a problem; 1 when there is one."""
    found = [(name, what) for name in names if Path(name).is_file() and (what := problem(Path(name)))]
    for name, what in found:
        print(f"{name}: {what}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
