"""The files of the data set: those that a stage needs, found missing before it begins, and those that nobody reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.config import InputError, Settings
from pipeline.plan import DONE, ColumnPlan, known_sources, place_of
from stages.base import Entry
from stages.names import SplitRef
from store.format.column import read_commit
from store.format.layout import column_dir
from store.format.schema import OK


def require_images(
    settings: Settings, stage: str, split: SplitRef, plans: Sequence[ColumnPlan], todo: Mapping[int, list[str]]
) -> None:
    """Find image files that are not there, before any work begins; what goes away later is no error of the input.

    Raises:
        InputError: one is not there.
    """
    if stage not in ("masks", "embed") or not todo:
        return
    known, root = known_sources(settings, split), settings.root(split.dataset)
    folder = column_dir(settings.store_path, place_of(settings, split, "images"))
    done = [
        shard for shard in range(plans[0].meta.shards) if shard not in todo and plans[0].shards[shard].state == DONE
    ]
    for shard in (*todo, *done[-1:]):  # with the one that is compared before others are added
        commit = read_commit(folder, shard)
        for number, status in enumerate(commit.status if commit else ()):
            path = known[shard * settings.shard_images + number][1]
            if status == OK and not (root / path).is_file():
                raise InputError(
                    f"{path} changed since it was indexed: no such file in {root}; bring it back, or run: "
                    f"python cli.py index {settings.options(split)}"
                )


def unread_files(settings: Settings, split: SplitRef, entries: Sequence[Entry]) -> dict[str, int]:
    """Kind of file (its suffix) in the split's folder that no entry is made from -> how many; hidden files are not counted."""
    root = settings.root(split.dataset)
    folder = root / split.split
    if not folder.is_dir():
        return {}
    read = {path for entry in entries for path in (entry.source.path, *entry.source.annotations)}
    rest = [path for path in folder.iterdir() if path.relative_to(root).as_posix() not in read]
    kinds = (
        "folder" if path.is_dir() else path.suffix or "no suffix" for path in rest if not path.name.startswith(".")
    )
    return dict(sorted(Counter(kinds).items()))
