"""How many images, questions and texts a split has: as indexed, or as its files say where that is known at once."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import Settings
from pipeline.upstream import commits_of, place_of
from stages import datasets
from stages.datasets import FORMATS
from stages.datasets.base import DatasetError
from stages.datasets.catalog import counted_as, recognise
from stages.datasets.params import ImagesOptions
from stages.datasets.published import Counts, published, verdict
from stages.images import ImageFailure
from stages.names import SplitRef
from store.errors import StoreError
from store.format.layout import column_dir
from store.format.schema import FAILED, REMOVED
from store.format.tables import read_table
from store.storage.listing import is_folder

MAX_BYTES = 2**28
"""Annotation files that are larger together are counted only by ``index``: reading them takes minutes."""
INDEX, FILES = "index", "files"


@dataclass(frozen=True)
class Counted:
    """Counts of a split. source: ``index``, ``files``, or None where nothing was counted. why: the reason for None, or a remark."""

    counts: Counts
    source: str | None = None
    why: str = ""


def count_split(settings: Settings, split: SplitRef) -> Counted:
    """The counts of a split: from the store where all of it is indexed, else from its files.

    The files are counted where pictures are indexed only if other data sets ask about them.
    """
    data = settings.data[split.dataset]
    found = None if isinstance(data, ImagesOptions) and data.only else count_indexed(settings, split)
    return _count_files(settings, split) if found is None else found


def count_indexed(settings: Settings, split: SplitRef) -> Counted | None:
    """The counts of a split as the store has it; None where not all of its shards are there and readable."""
    import pyarrow.compute as pc  # takes 50 ms, which no other command needs

    annotated = FORMATS[settings.data[split.dataset].format].annotated
    try:
        images = commits_of(settings, split, "images")
        targets = commits_of(settings, split, "targets") if annotated and images is not None else []
        if images is None or targets is None:
            return None
        status = [each for commit in images for each in commit.status if each != REMOVED]
        if not annotated:
            return Counted(Counts(len(status), None, None), INDEX, _failed(status))
        folder = column_dir(settings.store_path, place_of(settings, split, "targets"))
        tables = [read_table(folder, commit, ["texts"]) for commit in targets]
    except (StoreError, OSError):  # which verify is for
        return None
    texts = sum(pc.sum(pc.list_value_length(table.column("texts"))).as_py() or 0 for table in tables)
    failed = _failed([each for commit in targets for each in commit.status])
    return Counted(Counts(len(status), sum(map(len, tables)), texts), INDEX, failed)


def next_to_published(settings: Settings, split: SplitRef) -> str:
    """A line on how the counts of an indexed split compare with the published ones; empty where there is nothing to say.

    Nothing is said of a split that is not a known published set, that is only in part in the store, or that has far fewer images
    than published: it is a sample.
    """
    data = settings.data[split.dataset]
    known = recognise(data, split.dataset)
    if known is None or (isinstance(data, ImagesOptions) and data.only):
        return ""
    key = counted_as(data, known.set, split.split)
    counted = count_indexed(settings, split) if published(*key) else None
    if counted is None:
        return ""
    found = verdict(*key, counted.counts)
    remark = f"; {counted.why}" if counted.why else ""
    return "" if found.state in ("sample", "unknown") else f"{split}: {found.text} ({known.set.title}){remark}"


def _failed(status: list[str]) -> str:
    count = status.count(FAILED)
    return f"{count} images failed, and have no questions here" if count else ""


def _count_files(settings: Settings, split: SplitRef) -> Counted:
    data, nothing = settings.data[split.dataset], Counts(None, None, None)
    folders = settings.folders(split.dataset).folders
    files = datasets.expected(data, split.dataset, split.split)
    if not any(map(is_folder, folders)):
        return Counted(nothing, why="its files are not there")
    if missing := [each for each in files if each.needed and not any(each.found(folder) for folder in folders)]:
        return Counted(nothing, why=f"not there: {missing[0].what}")
    read = [each.found(folder) for each in files if not each.partly for folder in folders]
    size = sum(path.stat().st_size for path in read if path is not None and path.is_file())
    if size > MAX_BYTES:
        return Counted(nothing, why=f"not counted before it is indexed, as its files have {size / 1e9:.1f} GB")
    try:
        return Counted(datasets.count(data, settings.folders(split.dataset), split.split), FILES)
    except (DatasetError, ImageFailure, OSError) as error:
        return Counted(nothing, why=str(error))
