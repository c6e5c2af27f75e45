"""The files of the data set: those that a stage needs, found missing before it begins, and those that nobody reads."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import InputError, Settings
from pipeline.look import Look
from pipeline.plan import DONE, ColumnPlan
from pipeline.upstream import known_sources, place_of
from stages.base import Entry
from stages.datasets import FORMATS
from stages.names import SplitRef
from store.format.schema import OK
from store.storage.listing import files_there


def require_images(
    look: Look, stage: str, split: SplitRef, plans: Sequence[ColumnPlan], todo: Mapping[int, list[str]]
) -> None:
    """Find image files that are not there, before any work begins; a file that disappears later is not an error of the input.

    Raises:
        InputError: one is not there.
    """
    if stage not in ("masks", "embed") or not todo:
        return
    settings, place = look.settings, place_of(look.settings, split, "images")
    holder = settings.data[split.dataset].images
    known, root = known_sources(settings, split), settings.folders(holder)
    done = [
        shard for shard in range(plans[0].meta.shards) if shard not in todo and plans[0].shards[shard].state == DONE
    ]
    for shard in (*todo, *done[-1:]):  # with the one that is compared before others are added
        commit = look.records.commit(place, shard)
        statuses = enumerate(commit.status if commit else ())
        paths = [known[shard * settings.shard_images + number][1] for number, status in statuses if status == OK]
        for path, there in zip(paths, files_there([Path(root.path(path)) for path in paths]), strict=True):
            if not there:
                raise InputError(
                    f"{path} changed since it was indexed: no such file in {root}; bring it back, or run: "
                    f"python cli.py index {settings.holder_options(split)}"
                )


def unread_files(settings: Settings, split: SplitRef, entries: Sequence[Entry]) -> dict[str, int]:
    """Kind of file (its suffix) in the split's folder that no entry is made from -> how many; hidden files are not counted."""
    if not FORMATS[settings.data[split.dataset].format].split_folder:
        return {}
    folder = settings.folders(split.dataset).folders[0] / split.split
    if not folder.is_dir():
        return {}
    read = {path for entry in entries for path in (entry.source.path, *entry.source.annotations)}
    with os.scandir(folder) as found:
        rest = [file for file in found if not file.name.startswith(".") and f"{split.split}/{file.name}" not in read]
    kinds = ("folder" if file.is_dir() else Path(file.name).suffix or "no suffix" for file in rest)
    return dict(sorted(Counter(kinds).items()))
