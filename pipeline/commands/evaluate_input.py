"""What ``evaluate`` scores: files of predictions, and the split that they are for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.config import InputError, Settings
from stages.evaluate.cases import OF_CHOICES
from stages.evaluate.external import read_external
from stages.evaluate.score import BASELINE_NAMES
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, PredictionError, read
from store import Split, open_split
from store.errors import DamagedStoreError, StoreError
from store.format.names import proposers_of

COLUMNS = ("images", "instances", "targets")


def load_predictions(
    path: Path,
    opened: Split,
    split: SplitRef,
    threshold: int | None = None,
    protocol: str | None = None,
    unasked: dict[str, int] | None = None,
) -> tuple[Meta, list[Prediction]]:
    """Read ours (``.parquet``) or anyone's; PredictionError where they are malformed or of another split.

    ``threshold``, ``protocol`` and ``unasked`` as :func:`stages.evaluate.external.read_external`.
    """
    if path.suffix.lower() != ".parquet":
        found = read_external(path, opened, threshold=threshold, protocol=protocol, unasked=unasked)
        # These count as generated: nothing says that the answer was in the system's input.
        return Meta(name_of(path), split.dataset, split.split), found
    if threshold is not None:
        raise PredictionError(f"{path}: --threshold is for a folder of PNGs, found a file")
    meta, predictions = read(path)
    if (meta.dataset, meta.split) != (split.dataset, split.split):
        raise PredictionError(f"{path}: predictions are for {meta.dataset}/{meta.split}, expected {split}")
    if not predictions:
        raise PredictionError(f"{path}: found no prediction in it")
    return meta, predictions


def proposer_of(settings: Settings, paths: Sequence[Path]) -> str | None:
    """The proposer whose masks are the candidates: the one that our predictions say they chose from, else that of the params.

    Raises:
        InputError: they chose from masks of several.
    """
    found: set[str] = set()
    for path in paths:
        with contextlib.suppress(PredictionError, ValueError):  # said when they are loaded
            found |= set(proposers_of(json.loads(read(path)[0].columns) if path.suffix.lower() == ".parquet" else ()))
    if len(found) > 1:
        raise InputError(
            f"--predictions: they chose from masks of several proposers, {', '.join(sorted(found))}; score them one by one"
        )
    return next(iter(found), settings.proposer)


def open_for_choices(settings: Settings, split: SplitRef, proposer: str | None) -> tuple[Split, str]:
    """The split, with the columns of choices where they can be had, or why they cannot."""
    place = settings.store_path, split.dataset, split.split
    try:
        return open_split(*place, columns=[*COLUMNS, *OF_CHOICES], proposer=proposer), ""
    except DamagedStoreError:
        raise
    except StoreError as error:
        return open_split(*place, columns=COLUMNS), str(error)


def with_names_of_their_own(
    loaded: Sequence[tuple[Meta, list[Prediction]]],
) -> list[tuple[str, Meta, list[Prediction]]]:
    """The predictions, each with a name that no baseline and no other system has."""
    found: list[tuple[str, Meta, list[Prediction]]] = []
    taken = set(BASELINE_NAMES)
    for meta, predictions in loaded:
        names = (
            meta.system,
            f"{meta.system} (predictions)",
            *(f"{meta.system} ({k})" for k in range(2, len(loaded) + 2)),
        )
        name = next(name for name in names if name not in taken)
        taken.add(name)
        found.append((name, meta, predictions))
    return found


def name_of(path: Path) -> str:
    """What to call a file's system: the name of the file without its ending, or of the folder."""
    place = path if path.name.strip(".") else path.resolve()
    name = place.name if place.is_dir() else place.stem
    # A name that is not valid text would fail wherever it is written.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") or "predictions"
