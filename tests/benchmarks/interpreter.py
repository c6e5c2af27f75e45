"""Finds the Python of the benchmarks' environment: ``python -m tests.benchmarks.interpreter python3.12`` prints its path.

A name on PATH may be a pyenv shim, which runs only if that version is selected, so each candidate is tried.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 12)
"""zarr-python needs it; see requirements.in."""
OWN = "python -m tests.benchmarks.read --only memmap 'this store' Parquet safetensors"
"""The loaders that the project's own environment has."""


def find(name: str, target: str = "bench-read") -> str:
    """Path of the interpreter ``name``, or of one of pyenv's of that version.

    Raises:
        LookupError: none runs; says what was found and what to type for the ``target`` of the Makefile.
    """
    tried = []
    for candidate in [name, *_of_pyenv(name)]:
        path, reason = _runs(candidate)
        if path:
            return path
        tried.append(f"  {candidate}: {reason}")
    lines = "\n".join(tried)
    instead = f"\nor, for the loaders that this project's own Python has: source .venv/bin/activate && {OWN}"
    raise LookupError(
        f"found no Python {'.'.join(map(str, OLDEST))} or newer that runs:\n{lines}\n"
        f"install one, or name one: make {target} BENCH_PYTHON=/path/to/python3.12"
        f"{instead if target.startswith('bench') else ''}"
    )


def _of_pyenv(name: str) -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    version = name.rpartition("/")[2].removeprefix("python")
    return [str(path) for path in sorted(root.glob(f"versions/{version or '3'}*/bin/python"), reverse=True)]


def _runs(candidate: str) -> tuple[str, str]:
    """Its own path and nothing, or nothing and why it cannot be used."""
    if shutil.which(candidate) is None:
        return "", "not on PATH" if "/" not in candidate else "no such program"
    code = "import sys; print(sys.executable, *sys.version_info[:2])"
    done = subprocess.run([candidate, "-c", code], check=False, capture_output=True, text=True)
    words = done.stdout.split()
    if done.returncode or len(words) < 3:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[0]
        return "", f"does not run: {said}"
    if (int(words[-2]), int(words[-1])) < OLDEST:
        return "", f"is Python {words[-2]}.{words[-1]}"
    return done.stdout.rsplit(maxsplit=2)[0], ""


if __name__ == "__main__":
    try:
        print(find(*sys.argv[1:]))
    except LookupError as error:
        sys.exit(str(error))
