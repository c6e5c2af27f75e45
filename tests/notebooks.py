"""Runs the code cells of a notebook in order, in one process, as plain Python: no kernel and no magic commands.

    python tests/notebooks.py docs/notebooks/NAME.ipynb [OLD NEW ...]

Every OLD in the code is replaced by its NEW. The folder of the notebook is the working folder, as in Jupyter. The last value of a
cell is shown by the method that a notebook would call.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any


def cells(path: Path, kind: str = "code") -> list[str]:
    """The source of every cell of a kind."""
    return [
        "".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == kind
    ]


def run(path: Path, replaced: dict[str, str]) -> None:
    """Run the cells; an error in one ends the run. Raises ValueError where a text to be replaced is in none of them."""
    sources = cells(path)
    for old, new in replaced.items():
        if not any(old in source for source in sources):
            raise ValueError(f"{path}: no cell has {old!r}")
        sources = [source.replace(old, new) for source in sources]
    os.chdir(path.parent)
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(sources):
        place = f"{path.name}, code cell {number}"
        tree = ast.parse(source, place)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
        exec(compile(tree, place, "exec"), names)
        if last is not None:
            show(eval(compile(ast.Expression(last.value), place, "eval"), names))


def show(value: Any) -> None:
    """Print what a notebook would display: the kind and length of a picture or a page, or the value as text."""
    for method in ("_repr_html_", "_repr_png_"):
        if hasattr(value, method):
            return print(f"{method} of {type(value).__name__}: {len(getattr(value, method)())}")
    return None if value is None else print(repr(value))


if __name__ == "__main__":
    options = sys.argv[2:]
    run(Path(sys.argv[1]).resolve(), dict(zip(options[::2], options[1::2], strict=True)))
