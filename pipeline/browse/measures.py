"""Numbers to filter and sort images by: one per image, in arrays that are made when they are first asked for.

========================  ===========================================================================================
``masks:PROPOSER``        number of masks
``largest:PROPOSER``      area of the largest mask, percent of the image; ``smallest:`` of the smallest
``best:PROPOSER``         IoU of the best mask, mean over the image's questions that have an answer
``run:NAME``              IoU of the run's answers, mean over the image's questions that it answered
``questions``             number of questions; ``instances``: number of annotated regions
========================  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.browse.answers import Answers, answer_iou
from pipeline.browse.jobs import Advance, Jobs
from pipeline.browse.shelf import Shown, UnknownError
from pipeline.browse.states import states
from store.errors import StoreError
from store.format.schema import FAILED
from store.read.borrowed import AnyColumn, Borrowed

F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Texts(NamedTuple):
    """All texts of a split one after the other, and the image that each is of, int64 [T]."""

    text: pa.Array
    image: NDArray[np.int64]


class Measures:
    """The numbers of one split. Each raises NotYetError until it is worked out (:mod:`pipeline.browse.jobs`).

    ``answers``: those of the runs, by name. ``notes``: which are not among them, and why.
    """

    def __init__(self, shown: Shown, jobs: Jobs, answers: dict[str, Answers], notes: list[str]) -> None:
        self.shown, self.answers, self.notes = shown, answers, notes
        self._jobs = jobs
        self._proposers = shown.opened.proposers

    def names(self) -> dict[str, str]:
        """Every measure there is, and what a page calls it."""
        columns = self.shown.opened.columns
        found = {}
        if "targets" in columns:
            found["questions"] = "questions"
        if "instances" in columns:
            found["instances"] = "annotated regions"
        for name in self._proposers:
            if f"masks/{name}" in columns:
                found[f"masks:{name}"] = f"masks of {name}"
                found[f"largest:{name}"] = f"largest mask of {name}, % of the image"
                found[f"smallest:{name}"] = f"smallest mask of {name}, % of the image"
            if f"match/{name}/targets" in columns:
                found[f"best:{name}"] = f"IoU of the best mask of {name}"
        return found | {f"run:{name}": f"IoU of {answers.title}" for name, answers in self.answers.items()}

    def get(self, name: str) -> F64:
        """A measure, float64 [N]; NaN where an image has none.

        Raises:
            UnknownError: there is no such measure.
        """
        if name not in (known := self.names()):
            raise UnknownError(f"no measure {name!r}; there are {', '.join(known)}")
        kind, _, of = name.partition(":")
        counted = {"questions": "targets", "instances": "instances", "masks": f"masks/{of}"}
        if kind in counted:
            found = self.shown.states[counted[kind]]
            return np.where(found.code == 0, found.entries, np.nan)
        if kind == "run":
            answers = self.answers[of]
            return np.asarray(self._work(f"{name} {answers.version}", known[name], lambda to: self._run(answers, to)))
        if kind == "best":
            return np.asarray(self._work(name, known[name], lambda to: self._best(of, to)))
        both = self._work(f"areas:{of}", f"areas of the masks of {of}", lambda to: self._areas(of, to))
        return np.asarray(both[0 if kind == "largest" else 1])

    def failed(self) -> Flags:
        """Which images failed in any column, bool [N]."""
        return np.asarray(self._work("failed", "failed images", self._failed))

    def empty(self) -> Flags:
        """Which images have a question with nothing to be found, bool [N]."""
        return np.asarray(self._work("empty", "questions with no answer in the image", self._empty))

    def contains(self, text: str) -> Flags:
        """Which images have a question or a name that contains a text, whatever the case of its letters, bool [N]."""
        found = np.zeros(len(self.shown), bool)
        for texts in (self._work("names", "names", self._names), self._work("texts", "texts", self._texts)):
            matches = pc.match_substring(texts.text, text, ignore_case=True)
            found[texts.image[np.asarray(matches)]] = True
        return found

    def _work(self, key: str, title: str, work: Callable[[Advance], Any]) -> Any:
        return self._jobs.result((self.shown.number, key), title, work)

    def _names(self, advance: Advance) -> Texts:
        sources = self.shown.opened.columns["images"].meta.sources or ()
        both = pa.array((f"{image_id}\n{path}" for image_id, path in sources), pa.large_string(), size=len(sources))
        return Texts(both, np.arange(len(sources)))

    def _texts(self, advance: Advance) -> Texts:
        texts, images = [pa.array([], pa.large_string())], [np.empty(0, np.int64)]
        for table, _ in self._shards("targets", ("image_index", "texts"), advance):
            lists = table.column("texts").combine_chunks()
            texts.append(lists.flatten().cast(pa.large_string()))
            lengths = np.asarray(pc.list_value_length(lists))
            images.append(np.repeat(np.asarray(table.column("image_index")), lengths))
        return Texts(pa.concat_arrays(texts), np.concatenate(images))

    def _empty(self, advance: Advance) -> Flags:
        found = np.zeros(len(self.shown), bool)
        for table, _ in self._shards("targets", ("image_index", "instances", "turns"), advance):
            found[np.asarray(table.column("image_index"))[_is_empty(table)]] = True
        return found

    def _failed(self, advance: Advance) -> Flags:
        found = np.zeros(len(self.shown), bool)
        names = self.shown.columns()
        for number, name in enumerate(names):
            advance(number, len(names))
            known = self.shown.states.get(name)
            if known is None:
                try:
                    known = states(self.shown.with_columns(name).columns[name], len(found))
                except StoreError:  # the notes report it
                    continue
            found |= known.are(FAILED)
        return found

    def _areas(self, proposer: str, advance: Advance) -> tuple[F64, F64]:
        """Percent of the image that its largest and smallest mask cover."""
        column, images = self.shown.opened.columns[f"masks/{proposer}"], self.shown.opened.columns["images"]

        def pixels(table: pa.Table) -> F64:
            sides = (np.asarray(table.column(name), np.float64) for name in ("height_px", "width_px"))
            return np.asarray(np.prod(list(sides), axis=0)).reshape(-1, 1)

        def ends(table: pa.Table) -> F64:
            lists = table.column("area").combine_chunks()
            offsets, values = np.asarray(lists.offsets), np.asarray(lists.values, np.float64)
            found = np.full((len(lists), 2), np.nan)
            some = np.flatnonzero(np.diff(offsets))
            found[some, 0], found[some, 1] = values[offsets[some]], values[offsets[some + 1] - 1]
            return found

        areas = by_image(column, len(self.shown), ("area",), 2, ends, advance)
        size = by_image(images, len(self.shown), ("height_px", "width_px"), 1, pixels, lambda done, total: None)
        percent = 100 * areas / np.where(size > 0, size, np.nan)
        return percent[:, 0], percent[:, 1]

    def _best(self, proposer: str, advance: Advance) -> F64:
        """Mean over the questions of an image that have an answer."""
        mean = Mean(len(self.shown))
        fields = ("target_id", "image_index", "iou_valid")
        targets = self.shown.opened.columns["targets"]
        for table, shard in self._shards(f"match/{proposer}/targets", fields, advance):
            about = targets.table(shard, ("target_id", "instances", "turns"))
            at = pc.index_in(table.column("target_id"), value_set=about.column("target_id").combine_chunks())
            empty = _is_empty(about)[np.asarray(at.fill_null(0))]
            lists = table.column("iou_valid").combine_chunks()
            offsets, values = np.asarray(lists.offsets), np.asarray(lists.values, np.float64)
            best = np.zeros(len(lists))
            some = np.flatnonzero(np.diff(offsets))
            if some.size:
                best[some] = np.maximum.reduceat(values[: offsets[-1]], offsets[some])
            mean.add(np.asarray(table.column("image_index")), np.where(empty, np.nan, best))
        return mean.value()

    def _run(self, answers: Answers, advance: Advance) -> F64:
        mean = Mean(len(self.shown))
        fields = ("target_id", "image_index", "segmentation", "ignore")
        given = answers.table(("target_id", "text_index", "segmentation"))
        given = given.filter(pc.equal(given.column("text_index"), 0))
        known = given.column("target_id").combine_chunks()
        guesses = given.column("segmentation").combine_chunks()
        for table, _ in self._shards("targets", fields, advance):
            image = np.asarray(table.column("image_index"))
            found = np.full(len(image), np.nan)
            rows = pc.index_in(table.column("target_id"), value_set=known).to_pylist()
            truths, ignored = (table.column(name).to_pylist() for name in ("segmentation", "ignore"))
            for number, row in enumerate(rows):
                if row is not None:
                    found[number] = answer_iou(truths[number], ignored[number], guesses[row].as_py())
            mean.add(image, found)
        return mean.value()

    def _shards(self, name: str, fields: tuple[str, ...], advance: Advance) -> Iterator[tuple[pa.Table, int]]:
        """The shards of a table of the split's own that are there, with the number of each."""
        column = self.shown.opened.columns.get(name)
        if column is None or isinstance(column, Borrowed):
            return
        for commit in column.commits:
            if commit is not None:
                advance(commit.shard, len(column.commits))
                yield column.table(commit.shard, fields), commit.shard


class Mean:
    """The mean of the values that each image was given. NaN does not count; an image without values has NaN."""

    def __init__(self, images: int) -> None:
        self._total, self._count = np.zeros(images), np.zeros(images, np.int64)

    def add(self, image: NDArray[np.int64], value: F64) -> None:
        """Values, float64 [n], of these images, int64 [n]."""
        counts = ~np.isnan(value)
        np.add.at(self._total, image[counts], value[counts])
        np.add.at(self._count, image[counts], 1)

    def value(self) -> F64:
        """The means, float64 [N]."""
        mean: F64 = np.divide(self._total, self._count, out=np.full(len(self._total), np.nan), where=self._count > 0)
        return mean


def by_image(
    column: AnyColumn,
    images: int,
    fields: tuple[str, ...],
    width: int,
    values: Callable[[pa.Table], F64],
    advance: Advance,
) -> F64:
    """Values of a table with a row per image, float64 [N, width]; NaN where a shard is not there.

    ``values``: from a shard's table to its values, [rows, width].
    """
    found = np.full((images, width), np.nan)
    if isinstance(column, Borrowed):
        for which, part in enumerate(column.columns):
            mine = column.borrowing.split == which
            theirs = by_image(part, part.meta.images, fields, width, values, advance)
            index = column.borrowing.index[mine]
            inside = index < len(theirs)
            found[np.flatnonzero(mine)[inside]] = theirs[index[inside]]
        return found
    for commit in column.commits:
        if commit is not None:
            advance(commit.shard, len(column.commits))
            first = commit.shard * column.meta.shard_images
            found[first : first + len(commit.counts)] = values(column.table(commit.shard, fields))[
                : max(0, images - first)
            ]
    return found


def _is_empty(targets: pa.Table) -> Flags:
    """Which targets ask for something that is not in the image, bool [n]: they have no instances and are not conversations."""
    turns = pc.fill_null(pc.list_value_length(targets.column("turns")), 0)
    empty = pc.and_(pc.equal(pc.list_value_length(targets.column("instances")), 0), pc.equal(turns, 0))
    return np.asarray(empty)
