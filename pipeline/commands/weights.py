"""The verb ``weights``: list, fetch or adopt checkpoints."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from pipeline.graph import all_specs
from stages.adopt import adopt
from stages.checkpoints import WeightsError
from stages.proposers.sam import SAM_MODELS
from stages.weights import WEIGHTS, fetch, find, how_to_get, locate, place

_HEADER = ("name", "needed by", "state", "size", "licence", "file", "published by")


def weights_command(settings: Settings, names: Sequence[str], source: Path | None, replace: bool = False) -> str:
    """Fetch ``names``, or adopt ``source`` as the one name given, or list the registry; return what to print."""
    folder, lock = ROOT / settings.run.weights_dir, settings.weights_lock
    if source is not None:
        if len(names) != 1:
            raise InputError(f"--from: found {len(names)} names, expected one: python cli.py weights NAME --from FILE")
        path = adopt(names[0], source.expanduser(), folder, lock, replace)
        return f"{names[0]}: adopted as {_relative(path)}"
    if replace:
        raise InputError("--replace: expected a file, too: python cli.py weights NAME --from FILE --replace")
    if not names:
        return _listed(folder, lock, needed(settings))
    return "\n".join(f"{name}: {_relative(fetch(name, folder, lock, sys.stderr.isatty()))}" for name in names)


def needed(settings: Settings) -> Mapping[str, list[str]]:
    """Checkpoint -> the stages that read it with these settings; ``train`` stands for the system lisa."""
    found: dict[str, list[str]] = defaultdict(list)
    for spec in all_specs(settings).values():
        for name in spec.weights:
            found[name] += [spec.stage] if spec.stage not in found[name] else []
    if model := SAM_MODELS.get(settings.train.lisa.sam_model):
        found[model.weights].append("train")
    return found


def _listed(folder: Path, lock: Path, wanted: Mapping[str, list[str]]) -> str:
    known = {name: find(name) for name in [*WEIGHTS, *(name for name in wanted if name not in WEIGHTS)]}
    states = {name: _state(name, folder, lock) for name in known}
    rows = [_HEADER] + [
        (
            name,
            ", ".join(wanted.get(name, ())) or "-",
            states[name],
            f"{weights.size_bytes / 1e6:.0f} MB" if weights.size_bytes else "-",
            weights.licence,
            _relative(place(name, folder)),
            weights.source,
        )
        for name, weights in known.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", *_to_do(states, wanted)])


def _to_do(states: Mapping[str, str], wanted: Mapping[str, list[str]]) -> list[str]:
    """What the params need and is not here, and what to type for it."""
    lacking = [name for name in states if name in wanted and states[name] != "here"]
    lines = [f"the params need {len(wanted)} of them; not here: {', '.join(lacking) or 'none'}"]
    if fetched := [name for name in lacking if find(name).url is not None]:
        lines.append(f"to fetch: python cli.py weights {' '.join(fetched)}")
    return lines + [
        f"to get by hand from {find(name).source}: python cli.py weights {name} --from FILE"
        if name in WEIGHTS
        else f"{name}: {how_to_get(find(name))}"
        for name in lacking
        if find(name).url is None and not find(name).committed
    ]


def _state(name: str, folder: Path, lock: Path) -> str:
    """``here``; ``missing``; ``wrong``: a file is there, and is another one than the registry or weights.lock has."""
    try:
        locate(name, folder, lock)
    except WeightsError:
        return "wrong" if place(name, folder).exists() else "missing"
    return "here"


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
