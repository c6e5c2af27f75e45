"""The import graph, file by file, imports inside functions included: no circles, and nothing imports what stands above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("store", "stages", "demo", "pipeline", "cli")
"""From the ground up: a file may import files of its own floor and of those before it."""


def files() -> dict[str, Path]:
    """Module -> file."""
    found = [path for floor in FLOORS for path in ROOT.glob(f"{floor}/**/*.py")] + [ROOT / "cli.py"]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of the house that a file names in its imports."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                if inner in modules or origin in modules:
                    yield inner if inner in modules else origin


def graph() -> dict[str, set[str]]:
    modules = files()
    return {name: set(imported(name, path, modules)) - {name} for name, path in modules.items()}


def floor(module: str) -> int:
    return FLOORS.index(module.partition(".")[0])


def test_no_circle_between_files() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail("these files import each other: " + " <- ".join(error.args[1]))


def test_no_import_leads_upward() -> None:
    upward = [
        f"{module} -> {other}" for module, others in graph().items() for other in others if floor(other) > floor(module)
    ]
    assert not upward


def test_the_graph_is_that_of_the_code() -> None:
    """A reader of imports that finds none would find no circle either."""
    found = graph()
    assert "store.format.column" in found["store.read.column"], "relative imports count"
    assert "pipeline.params_file" in found["pipeline.verbs.given"], "imports inside functions count"
    assert sum(map(len, found.values())) > 500
