"""Columns of a picture that no data set has: a small store in the cache, with this image alone.

The stages that compute a data set compute it, so that it is begun, published and checked as all others, and a kill leaves nothing
half-written. Its folder is named by the sha256 of the picture and by the fingerprints of all columns that the params ask for; each
column has its own fingerprint besides, and is computed when something first reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from pipeline.compute import compute_stages
from pipeline.config import ROOT, InputError, Settings
from pipeline.executors import LocalExecutor
from pipeline.graph import specs, wanted_fingerprint
from stages.names import SplitRef
from store import Split, open_split
from store.format.names import proposer_of
from store.storage.files import digest, make_folder
from store.storage.leftovers import replace_file

PICTURE = SplitRef("asked", "all")
"""Data set and split of the picture in its store; its image_index is 0."""
_FILE = "picture.jpg"
"""Its file name there, whatever its format, which is recognised by the bytes."""
_STAGES = ("index",), ("masks", "embed")


def open_picture(settings: Settings, data: bytes, columns: Collection[str], proposer: str | None) -> Split:
    """The small store's split, with the columns asked for; those that are not there are computed.

    Args:
        data: the picture's file.
        columns: names with the proposer, of stages masks and embed.
        proposer: whose masks names without a proposer stand for.

    Raises:
        InputError: the params make no such column. WeightsError: a checkpoint is not here.
    """
    whole = _settings(settings, "unused", settings)
    known = specs(whole, PICTURE.dataset)
    if unknown := sorted(set(columns) - known.keys()):
        raise InputError(
            f"{', '.join(unknown)}: not made with these params, which make {', '.join(known)} of a picture; change sections "
            "proposers and embed"
        )
    prints = {name: wanted_fingerprint(whole, PICTURE.dataset, name, lenient=True) for name in known}
    folder = Path(settings.run.cache_dir) / "ask" / f"{hashlib.sha256(data).hexdigest()}-{digest(prints)[:16]}"
    one = _settings(settings, str(folder), _less(settings, _with_upstream(whole, columns)))
    _put(ROOT / folder / _FILE, data)
    for stages in _STAGES:
        compute_stages(one, stages, [PICTURE], LocalExecutor(), replace=True)
    return open_split(one.store_path, PICTURE.dataset, PICTURE.split, columns=sorted(columns), proposer=proposer)


def _settings(settings: Settings, folder: str, computed: Settings) -> Settings:
    """Settings of the small store in a folder: the proposers and encoders of ``computed``."""
    run = settings.run.model_copy(update={"executor": "local"})
    entry = {"format": "images", "images": PICTURE.dataset, "root": folder, "splits": [PICTURE.split]}
    return Settings.model_validate(
        {
            "store": f"{folder}/store",
            "data": {PICTURE.dataset: entry},
            "shard_images": 1,
            "proposers": computed.proposers,
            "embed": computed.embed,
            "run": run,
        }
    )


def _with_upstream(settings: Settings, columns: Collection[str]) -> set[str]:
    """The columns, and those that they are computed from."""
    known, found, left = specs(settings, PICTURE.dataset), set[str](), list(columns)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += known[name].reads
    return found


def _less(settings: Settings, columns: Collection[str]) -> Settings:
    """The settings with only the proposers and encoders of these columns."""
    made = {name.partition("/")[0]: set[str]() for name in columns}
    for name in columns:
        made[name.partition("/")[0]].add(name.rpartition("/")[2])
    proposers = {name: each for name, each in settings.proposers.items() if name in map(proposer_of, columns)}
    chosen = {
        "mask_encoders": made.get("mask_embeddings", ()),
        "image_encoders": made.get("image_features", ()),
        "sam_features": made.get("sam_features", ()),
    }
    kept = {key: tuple(name for name in getattr(settings.embed, key) if name in names) for key, names in chosen.items()}
    return settings.model_copy(update={"proposers": proposers, "embed": settings.embed.model_copy(update=kept)})


def _put(path: Path, data: bytes) -> None:
    """Write the picture unless it is there; it appears whole or not at all."""
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    make_folder(path.parent)
    replace_file(path, data)
