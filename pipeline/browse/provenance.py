"""Where the columns of an image come from, and whether they would be computed the same way now."""

from __future__ import annotations

from typing import Any

from pipeline.browse.shelf import Shown
from pipeline.config import InputError, Settings
from pipeline.graph import column_identity, differences, specs
from stages.checkpoints import WeightsError
from store.errors import StoreError
from store.format.column import ColumnMeta, Commit
from store.format.layout import column_dir, parts_of, place_of
from store.format.lineage import FILE, Lineage
from store.format.shard import read_log
from store.read.borrowed import Borrowed

FRESH, STALE, DIFFERENT, NOT_ASKED, NOT_THERE = "current", "stale", "other parameters", "not in the params", "not there"
_NOT_ASKED = "the params do not ask for it"


def provenance(shown: Shown, image_index: int) -> list[dict[str, Any]]:
    """One entry per column, in the order of names: its shard's record, parameters, weights, what it was computed from, its state.

    ``state`` is current; stale, where what it was computed from has changed; other parameters, where the params file has others
    now; not in the params; or not there. ``why`` says more. Source files and the inputs of train
    means are not looked at; ``info`` does that.
    """
    lineage = Lineage(shown.settings.store_path)
    return [_column(shown, lineage, name, image_index) for name in ["images", *_others(shown)]]


def _others(shown: Shown) -> list[str]:
    return [name for name in shown.columns() if name != "images"]


def _column(shown: Shown, lineage: Lineage, name: str, image_index: int) -> dict[str, Any]:
    found: dict[str, Any] = {"column": name, "state": NOT_THERE, "why": "", "facts": {}}
    try:
        place, shard, position = _shard(shown, name, image_index)
        meta, commit = lineage.meta(place), lineage.commit(place, shard)
        if meta is None or commit is None:
            return {**found, "why": f"shard {shard} of {place} is not computed"}
        changed = _changed(shown.settings, meta, parts_of(place)[0])
        behind = lineage.why_not_readable(place, shard) or lineage.why_not_coherent(place, shard)
    except (StoreError, OSError) as error:
        return {**found, "why": str(error)}
    why = "; ".join(changed) if changed else behind or ""
    state = DIFFERENT if changed else STALE if behind else FRESH
    if changed == [_NOT_ASKED]:
        state, why = NOT_ASKED, behind or ""
    return {**found, "state": state, "why": why, "facts": _facts(shown, place, meta, commit, position)}


def _shard(shown: Shown, name: str, image_index: int) -> tuple[str, int, int]:
    """The place, the shard, and the position in it, of an image in a column; those at the holder for a borrowed column."""
    images = shown.opened.columns["images"].meta
    own = place_of(shown.ref.dataset, name, shown.ref.split)
    if images.holder is not None and name not in ("images", "instances", "targets"):
        column = shown.with_columns(name).columns[name]
        if isinstance(column, Borrowed):
            which, index = column.borrowing.at(image_index)
            if which >= 0:
                part = column.columns[which]
                return part.place, *divmod(index, part.meta.shard_images)
    return own, *divmod(image_index, images.shard_images)


def _changed(settings: Settings, meta: ColumnMeta, dataset: str) -> list[str]:
    """How the parameters differ from those that a column was computed with; or that they do not name it."""
    if dataset not in settings.data:
        return []
    try:
        if meta.column not in specs(settings, dataset):
            return [_NOT_ASKED]
        return differences(meta.identity, column_identity(settings, dataset, meta.column, lenient=True))
    except (InputError, WeightsError) as error:
        return [f"the params cannot be compared: {error}"]


def _facts(shown: Shown, place: str, meta: ColumnMeta, commit: Commit, position: int) -> dict[str, Any]:
    identity, made = meta.identity, read_log(column_dir(shown.settings.store_path, place), commit)
    upstream = {name: value for name, value in commit.upstream.items() if not name.startswith(FILE)}
    status = commit.status[position] if position < len(commit.status) else "not there"
    return {
        "place": place,
        "shard": f"{commit.shard}, image {position} of {len(commit.counts)}",
        "of this image": f"{status}, {commit.counts[position]} entries" if position < len(commit.counts) else status,
        "error": commit.errors.get(str(position)),
        "stage": f"{identity.get('stage')}, version {identity.get('version')}",
        "params": identity.get("params"),
        "weights (sha256)": identity.get("weights"),
        "computed from": upstream,
        "fingerprint": commit.fingerprint,
        "content": commit.content,
        "seal": commit.seal,
        "how it was made": {name: value for name, value in made.items() if name != "image_seconds"},
    }
