"""The folder of a run: what it holds, what a stopped run goes on from, and how an old run is moved out of the way."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.train.run_digest import SHORT, differences, run_digest
from store.storage.files import make_folder
from store.storage.leftovers import replace_file

RUN, CHECKPOINTS, TRAINED, CURVES = "run.json", "checkpoints", "trained.safetensors", "curves"
EXTERNAL = "external.json"
"""In the folder of a run that was not trained here: which files its predictions were read from."""
PLACE = "loader.json"
"""The file of a checkpoint that is written last: a checkpoint without it is incomplete."""


@dataclass(frozen=True)
class Held:
    """A run in its folder.

    about: its identity as recorded; may be empty. finished: whether it ran to its end. step: updates of its last complete
    checkpoint, None if there is no checkpoint.
    """

    about: Mapping[str, Any]
    finished: bool
    step: int | None

    @property
    def digest(self) -> str:
        """sha256 (hex) of the run; ``unknown`` for files without a record."""
        return run_digest(self.about) if self.about else "unknown"

    def __str__(self) -> str:
        state = "a finished run" if self.finished else f"an unfinished run ({_kept(self.step)})"
        return f"{state} {self.digest[:SHORT]}" if self.about else "files of a run without a record of its parameters"


def held(folder: Path) -> Held | None:
    """The run in a folder; None without a run."""
    checkpoint = last_checkpoint(folder)
    step = step_of(checkpoint) if checkpoint else None
    if (folder / RUN).is_file():
        return Held(_record(folder / RUN), True, step)
    if (folder / CHECKPOINTS / RUN).is_file():
        return Held(_record(folder / CHECKPOINTS / RUN), False, step)
    some = (folder / TRAINED).exists() or step is not None
    return Held({}, False, step) if some else None


def is_external(folder: Path) -> bool:
    """Whether a folder holds predictions that were not made here."""
    return (folder / EXTERNAL).is_file()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of an unfinished run."""
    found = [path for path in (folder / CHECKPOINTS).glob("checkpoint-*") if (path / PLACE).is_file()]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Updates that a checkpoint has seen."""
    return int(checkpoint.name.rpartition("-")[2])


def progress(checkpoint: Path) -> dict[str, float]:
    """``epoch``, ``epochs`` and ``steps`` of a run, as far as its checkpoint has them: where it is, and where it ends."""
    try:
        found = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        named = {"epoch": "epoch", "epochs": "num_train_epochs", "steps": "max_steps"}
        return {name: float(found[key]) for name, key in named.items() if found.get(key) is not None}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def kept(folder: Path) -> str:
    """What a stopped run has kept, in words."""
    return _kept(None if (found := held(folder)) is None else found.step)


def _kept(step: int | None) -> str:
    return "nothing is kept yet" if step is None else f"kept: step {step}"


def claim(folder: Path, wanted: Mapping[str, Any], aside: bool) -> Path | None:
    """Claim a folder for a run.

    Args:
        wanted: its identity.
        aside: a run that is in the folder is moved, see :func:`move_aside`.

    Returns:
        The checkpoint to go on from.

    Raises:
        ValueError: it holds another run.
    """
    if (found := held(folder)) is not None:
        if aside:
            print(f"{folder}: {found} was there and is now {move_aside(folder, found)}", file=sys.stderr)
        elif not found.about or differences(found.about, wanted):
            raise ValueError(f"{folder} holds {found}, expected a folder without a run or with this one")
    note = folder / CHECKPOINTS / RUN
    make_folder(note.parent)
    last = last_checkpoint(folder)
    for path in note.parent.glob("checkpoint-*"):
        if path != last:  # a checkpoint that was being written when the run was stopped, or an older one
            shutil.rmtree(path)
    write_record(note, {"name": folder.name, "digest": run_digest(wanted), **wanted})
    return last


def move_aside(folder: Path, found: Held) -> Path:
    """Rename the folder of a run to ``<name>-<digest>``; nothing in it changes. Returns the new place."""
    name = f"{folder.name}-{found.digest[:SHORT]}"
    number, target = 1, folder.with_name(name)
    while target.exists():
        number += 1
        target = folder.with_name(f"{name}-{number}")
    folder.rename(target)
    return target


def was_moved(folder: Path) -> bool:
    """Whether :func:`move_aside` gave a folder its name."""
    found = held(folder)
    return found is not None and f"-{found.digest[:SHORT]}" in folder.name


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON; the file appears whole or not at all."""
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode())


def _record(path: Path) -> dict[str, Any]:
    """What :func:`write_record` wrote; empty if it is not such a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) and isinstance(value.get("params"), dict) else {}


def sync_files(folder: Path) -> None:
    """Let the files of a folder survive a power loss."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
