"""The verb ``weights``: list, fetch or adopt checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from stages.weights import WEIGHTS, WeightsError, adopt, fetch, locate


def weights_command(settings: Settings, names: Sequence[str], source: Path | None) -> str:
    """Fetch ``names``, or adopt ``source`` as the one name given, or list the registry; return what to print."""
    folder, lock = ROOT / settings.run.weights_dir, settings.weights_lock
    if source is not None:
        if len(names) != 1:
            raise InputError(f"--from: found {len(names)} names, expected one: python cli.py weights NAME --from FILE")
        return f"{names[0]}: adopted as {_relative(adopt(names[0], source.expanduser(), folder, lock))}"
    if not names:
        return "\n".join(_line(name, folder, lock) for name in WEIGHTS)
    return "\n".join(f"{name}: {_relative(fetch(name, folder, lock, sys.stderr.isatty()))}" for name in names)


def _line(name: str, folder: Path, lock: Path) -> str:
    try:
        state = _relative(locate(name, folder, lock))
    except WeightsError:
        state = "not here"
    weights = WEIGHTS[name]
    size = f"{weights.size_bytes / 1e6:.0f} MB" if weights.size_bytes else "size unknown"
    return f"{name:<20} {state:<44} {size:<13} {weights.licence:<40} {weights.source}"


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
