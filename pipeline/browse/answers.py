"""Stored answers: files of predictions in the folders of runs, of trained systems or external, and the IoU of an answer."""

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
from stages.predictions import Meta, PredictionError, read_meta, read_table
from stages.train.folder import is_external
from store import rle

FILE_BYTES = 64 << 20
"""Bytes of predictions that are kept in memory."""


class Answers:
    """A file of predictions.

    Args:
        run: name of the folder that it is in.
        way: how the run was asked, where that was not the usual way, such as ``every-text``.
        external: whether they are predictions of another program, kept by ``evaluate --keep``.
    """

    def __init__(self, run: str, way: str, path: Path, external: bool, kept: Kept[pa.Table]) -> None:
        self.run, self.way, self.path, self.external = run, way, path, external
        self.name = f"{run} ({way})" if way else run
        self._kept = kept

    @property
    def title(self) -> str:
        """The name, and whether they are external."""
        return f"{self.name}, external" if self.external else self.name

    @property
    def version(self) -> tuple[int, int]:
        """A value that changes when the file is written again."""
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size

    def meta(self) -> Meta:
        """What the file says of its predictions. Raises PredictionError."""
        return read_meta(self.path)

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
    """The answers of all runs to the questions of a split, by name; what is not shown is added to ``notes`` with the reason."""
    found: dict[str, Answers] = {}
    folder = runs_folder(settings)
    for path in sorted(folder.glob(f"*/predictions/{split.dataset}/*.parquet")) if folder.is_dir() else ():
        run, ending = path.relative_to(folder).parts[0], path.stem.removeprefix(split.split)
        if path.stem == ending or ending[:1] not in ("", "-"):
            continue
        answers = Answers(run, ending[1:], path, is_external(folder / run), kept)
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
