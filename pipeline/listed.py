"""What the files of data sets list, whether or not a command restricts it, and what is said of a split that is not indexed."""

from __future__ import annotations

from pipeline.config import ROOT, InputError, Settings
from pipeline.look import Look
from stages import listings
from stages.datasets.base import Source
from stages.names import SplitRef
from store.format.layout import find_splits, what_exists
from store.storage.listing import folders, is_folder


def list_all(look: Look, split: SplitRef) -> list[Source]:
    """All that the files of a split list, asked once per ``look``. Raises DatasetError where they cannot be listed."""
    if split not in look.listed:
        settings = look.settings
        data, cache = settings.data[split.dataset], ROOT / settings.run.cache_dir
        look.listed[split] = listings.list_sources(data, settings.folders(split.dataset), split.split, cache)
    return look.listed[split]


def list_held(look: Look, split: SplitRef) -> dict[str, Source]:
    """image_id -> its files at the data set that holds the images of a split; in its split of the same name first."""
    found: dict[str, Source] = {}
    for where in sorted(look.settings.held(split.dataset), key=lambda where: where.split != split.split):
        for source in list_all(look, where):
            found.setdefault(source.image_id, source)
    return found


def not_indexed(settings: Settings, split: SplitRef, command: str = "") -> InputError:
    """The error for a split that the store does not hold. It names other splits that the store, or a folder next to it, holds.

    Args:
        command: what to type; default: the index of the split.
    """
    store = settings.store_path
    nearby = [store] if is_folder(store) else folders(store.parent)
    there = f": {what_exists(store, split.dataset)}" if any(map(find_splits, nearby)) else ""
    command = command or f"python cli.py index {settings.options(split)}"
    return InputError(f"split {split} is not indexed{there}; run: {command}")
