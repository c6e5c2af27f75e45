"""The files and folders that an entry of section ``data`` needs on disk: what to look for where there is nothing yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.datasets import FORMATS
from stages.datasets.classes import names_file
from stages.datasets.images import ALL
from stages.datasets.llmseg40k import SPLITS
from stages.datasets.params import (
    CocoOptions,
    DataParams,
    GReferOptions,
    ImagesOptions,
    LlmSeg40kOptions,
    Options,
    QuestionsOptions,
    ReasonSegHubOptions,
    ReasonSegPlusOptions,
    ReferOptions,
    SemanticOptions,
    VqaOptions,
)
from stages.datasets.question_rows import SUFFIXES as QUESTION_FILES
from stages.datasets.reasonseg_plus import FILES
from stages.datasets.semantic import folders_of
from stages.images import ImageFailure, check_inside

_INSTANCES = "instances.json"


@dataclass(frozen=True)
class Expected:
    """A file or folder of a data set.

    what: in words. paths: relative to the root, or patterns with ``*``; any one of them will do. needed: without it the split
    cannot be read.
    """

    what: str
    paths: tuple[str, ...]
    needed: bool = True

    def found(self, root: Path) -> Path | None:
        """Where it is; None: none of its paths is there, or a path leads out of the root."""
        for path in self.paths:
            try:
                check_inside(path)
            except ImageFailure:
                continue
            there = next(iter(sorted(root.glob(path))), None) if "*" in path else root / path
            if there is not None and there.exists():
                return there
        return None


def expected(data: DataParams, name: str, split: str) -> tuple[Expected, ...]:
    """What a split of a data set is made of. The pictures are among it where it holds them itself.

    Args:
        name: of the data set in the params.
    """
    holds = data.images == name and FORMATS[data.format].annotated
    found = _files(data, split) if isinstance(data, Options) else []
    if data.format == "reasonseg":
        what = "pictures, each with its JSON file" if holds else "JSON files"
        return Expected(what, (split,)), Expected("answers in words", (_answers(split),), needed=False)
    if holds and (folder := _pictures(data, split)):
        found = [*found, Expected("pictures", (folder,))]
    return tuple(found)


def _files(data: Options, split: str) -> list[Expected]:
    if isinstance(data, ImagesOptions):
        return [] if split == ALL else [Expected("pictures", (split,))]
    if isinstance(data, ReferOptions):
        return [Expected("refs", (f"refs({data.split_by}).p",)), Expected("objects", (_INSTANCES,))]
    if isinstance(data, GReferOptions):
        by = data.split_by
        refs = (f"grefs({by}).p", f"grefs({by}).json", f"refs({by}).p", f"Ref-ZOM({by}).p")
        return [Expected("refs", refs), Expected("objects", (_INSTANCES,))]
    if isinstance(data, SemanticOptions):
        names = names_file(data)
        maps = Expected("label maps", (folders_of(split, data)[0],))
        return [maps, *([Expected("names of the labels", (names,))] if names else [])]
    if isinstance(data, CocoOptions):
        files = [("annotations", data.file), ("categories", data.categories)]
        return [Expected(what, (file.replace("{split}", split),)) for what, file in files if file]
    if isinstance(data, LlmSeg40kOptions):
        return [Expected("questions", (f"{SPLITS.get(split, split)}.json",))]
    if isinstance(data, ReasonSegPlusOptions):
        return [Expected("questions", FILES[data.release].get(split, (f"{split}.json",)))]
    if isinstance(data, ReasonSegHubOptions):
        return [Expected("questions, masks and pictures", (data.files.replace("{split}", split),))]
    if isinstance(data, VqaOptions):
        return [Expected("conversations", (data.file,))]
    if isinstance(data, QuestionsOptions):
        tables = [f"{{split}}{suffix}" for suffix in QUESTION_FILES] if data.file is None else [data.file]
        return [Expected("questions", tuple(table.replace("{split}", split) for table in tables))]
    return []


def _pictures(data: DataParams, split: str) -> str:
    """The folder of a split's own pictures where the format says one, else empty."""
    if isinstance(data, SemanticOptions):
        return folders_of(split, data)[1]
    return data.pictures.replace("{split}", split).strip("/") if isinstance(data, CocoOptions) else ""


def _answers(split: str) -> str:
    return f"explanatory/{split}.json"
