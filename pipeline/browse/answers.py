"""What the runs answered: the files of predictions that lie with the runs, and the IoU of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.browse.kept import Kept
from pipeline.config import Settings
from pipeline.runs import runs_folder
from stages.names import SplitRef
from stages.predictions import Meta, PredictionError, read_table
from store import rle

FILE_BYTES = 64 << 20
"""Predictions in memory."""


class Answers:
    """A file of predictions. ``name``: that of its run, and in which unusual way it was asked."""

    def __init__(self, name: str, path: Path, kept: Kept[pa.Table]) -> None:
        self.name, self.path = name, path
        self._kept = kept

    @property
    def version(self) -> tuple[int, int]:
        """Another one where the file is another."""
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size

    def meta(self) -> Meta:
        """What the file says of its predictions. Raises PredictionError."""
        return read_table(self.path, ())[0]

    def table(self, fields: Sequence[str] | None = None) -> pa.Table:
        """The predictions, all or some fields of them. Raises PredictionError."""
        key = (str(self.path), self.version, None if fields is None else tuple(fields))
        return self._kept.get(key, lambda: read_table(self.path, fields)[1])

    def of(self, target_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The predictions for some targets. Raises PredictionError."""
        table = self.table()
        wanted = pa.array(target_ids, pa.string())
        return list(table.filter(pc.is_in(table.column("target_id"), value_set=wanted)).to_pylist())


def found_answers(settings: Settings, split: SplitRef, kept: Kept[pa.Table], notes: list[str]) -> dict[str, Answers]:
    """The answers to a split of all runs, by name; ``notes`` gets what is not shown, and why."""
    found: dict[str, Answers] = {}
    folder = runs_folder(settings)
    for path in sorted(folder.glob(f"*/predictions/{split.dataset}/*.parquet")) if folder.is_dir() else ():
        run, ending = path.relative_to(folder).parts[0], path.stem.removeprefix(split.split)
        if path.stem == ending or ending[:1] not in ("", "-"):
            continue
        answers = Answers(run + (f" ({ending[1:]})" if ending else ""), path, kept)
        try:
            meta = answers.meta()
        except PredictionError as error:
            notes.append(f"answers of {answers.name} are not shown: {error}")
            continue
        if (meta.dataset, meta.split) == (split.dataset, split.split):
            found[answers.name] = answers
    return found


def answer_iou(truth: str, ignore: str, answer: str | None) -> float:
    """IoU of an answer with its target without the ignored pixels, as ``evaluate`` counts it: 0/0 is 1.

    Args:
        truth, ignore, answer: COCO RLE counts of one image; None is the empty mask.

    Raises:
        RleError: one is malformed, or of another size.
    """
    if rle.area(ignore):
        truth = rle.subtract(truth, ignore)
        answer = None if answer is None else rle.subtract(answer, ignore)
    areas = rle.area(truth), 0 if answer is None else rle.area(answer)
    common = 0 if answer is None else int(rle.intersections([truth], [answer])[0, 0])
    either = sum(areas) - common
    return common / either if either else 1.0
