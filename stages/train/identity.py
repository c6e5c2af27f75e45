"""What decides what a run becomes, so that one that is finished or was stopped is known again, and no other is taken for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.train.params import TrainParams
from store.files import cached_sha256, digest
from store.reader import Split

RUN, CHECKPOINTS = "run.json", "checkpoints"
VERSIONS = {"elisa": 3, "llmseg": 1, "lisa": 2}
"""System -> version of its training. One higher when the same parameters and data are to be trained again, as what they become
has changed. 2: elisa's ``[REJ]`` stands where the masks would, and lisa does not train what no mask depends on. 3: elisa's
``loss_over: positions`` divides by the positions of the answers."""


def identity(params: TrainParams, system: str, splits: Mapping[str, Split]) -> dict[str, Any]:
    """``version``, ``params`` less those of the other systems, digest ``llava`` of the language model, one of each column."""
    return {
        "version": VERSIONS[system],
        "params": params.model_dump(mode="json", exclude=VERSIONS.keys() - {system}),
        "llava": llava_digest(params.llava),
        "columns": {
            f"{name}/{column}": digest(
                [opened.meta.fingerprint, *(commit.content for commit in opened.commits if commit)]
            )
            for name, split in splits.items()
            for column, opened in split.columns.items()
        },
    }


def llava_digest(name: str) -> str:
    """Digest of the names and bytes of the files in a model's folder. The id of a model on the hub stands for itself."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    return digest({path.name: cached_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()})


def finished(params: TrainParams, system: str, folder: Path, splits: Mapping[str, Split] | None = None) -> bool:
    """Whether a run with these parameters and this language model came to its end; with ``splits``, one on these data."""
    path = folder / RUN
    if not path.is_file():
        return False
    found, wanted = json.loads(path.read_text()), identity(params, system, splits or {})
    names = wanted.keys() if splits else wanted.keys() - {"columns"}
    return all(found.get(name) == wanted[name] for name in names)


def last_checkpoint(folder: Path, wanted: Mapping[str, Any], restart: bool) -> str | None:
    """The checkpoint to go on from; those of another :func:`identity` are removed."""
    checkpoints = folder / CHECKPOINTS
    note = checkpoints / RUN
    if restart or (checkpoints.is_dir() and not (note.is_file() and json.loads(note.read_text()) == wanted)):
        shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(wanted))
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return str(found[-1]) if found else None
