"""Predictions of other people's systems that are kept under a name, next to the runs that were trained here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import InputError, Settings
from pipeline.runs import check_name, runs_folder, short
from stages.evaluate.external import files_of
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, write
from stages.train.folder import EXTERNAL, held, is_external, write_record
from stages.train.systems import SYSTEMS
from store.storage.files import digest, file_sha256, make_folder


@dataclass(frozen=True)
class External:
    """Predictions under their name. splits: ``demo/test`` -> ``file``, the name of what was read, and its ``sha256`` (hex)."""

    name: str
    folder: Path
    splits: Mapping[str, Mapping[str, str]]

    @property
    def digest(self) -> str:
        """sha256 (hex) of the file, or of the files of several splits."""
        found = {name: entry["sha256"] for name, entry in self.splits.items()}
        return next(iter(found.values())) if len(found) == 1 else digest(found)

    def answers(self, split: SplitRef) -> Path:
        """The file of the predictions for a split."""
        return self.folder / "predictions" / split.dataset / f"{split.split}.parquet"


def external_runs(settings: Settings) -> list[External]:
    """All kept predictions, in the order of their names."""
    folder = runs_folder(settings)
    there = sorted(path for path in folder.iterdir() if is_external(path)) if folder.is_dir() else []
    return [External(path.name, path, _splits(path)) for path in there]


def require_free(settings: Settings, name: str, split: SplitRef, path: Path) -> None:
    """Raise InputError where predictions cannot be kept under a name: it is taken, or not a valid one.

    Args:
        path: of the predictions; they may be kept again where they are there already.
    """
    check_name(name, "--keep")
    folder = runs_folder(settings) / name
    if (
        name in SYSTEMS
        or name in settings.runs
        or held(folder) is not None
        or (folder.exists() and not is_external(folder))
    ):
        raise InputError(
            f"--keep: found {name!r}, which is the name of a run that is trained here; expected another one"
        )
    entry = _splits(folder).get(str(split)) if is_external(folder) else None
    if entry is not None and entry["sha256"] != sha256_of(path):
        raise InputError(
            f"--keep: {name!r} holds other predictions for {split}: {entry['file']}, sha256 {short(entry['sha256'])}; give these "
            f"another name, or remove {folder}"
        )


def keep(
    settings: Settings, name: str, split: SplitRef, meta: Meta, predictions: Sequence[Prediction], path: Path
) -> Path:
    """Keep predictions under a name; return their file. What is there under that name and split is replaced.

    Args:
        path: what they were read from.
    """
    run = External(name, runs_folder(settings) / name, {})
    make_folder(run.folder)
    splits = _splits(run.folder) if is_external(run.folder) else {}
    entry = {"file": path.resolve().name, "sha256": sha256_of(path)}
    # The record first: without it the folder would be taken for that of a run which was trained here.
    write_record(run.folder / EXTERNAL, {"name": name, "splits": {**splits, str(split): entry}})
    found = run.answers(split)
    write(found, replace(meta, system=name), predictions)
    return found


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file, or of the names and bytes of the files in a folder."""
    if not path.is_dir():
        return file_sha256(path)
    return digest({file.relative_to(path).as_posix(): file_sha256(file) for file in files_of(path)})


def _splits(folder: Path) -> dict[str, dict[str, str]]:
    """The splits of a record; InputError where it is not one that :func:`keep` wrote."""
    path = folder / EXTERNAL
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return {str(split): {key: str(entry[key]) for key in ("file", "sha256")} for split, entry in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a record of external predictions; remove its folder, or put it back") from error
