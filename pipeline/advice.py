"""What to type: the commands that make a column complete, or that mend what a store error reports."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import Settings
from pipeline.graph import EXTRACTED, STAGES, all_specs, upstream_columns, wanted_fingerprint
from pipeline.upstream import place_of, split_of, wanted_columns
from stages.names import SplitRef
from store.errors import DamagedStoreError, FailedImageError, StoreError
from store.format.layout import COLUMN_JSON, column_dir
from store.format.lineage import Lineage
from store.format.names import proposer_of, without_proposer
from store.storage.listing import is_there


def to_complete(settings: Settings, split: SplitRef | None, column: str) -> str:
    """The commands that bring a column, and whatever it is computed from, up to date; in the order in which they work."""
    gaps = list(dict.fromkeys(_gaps(settings, Lineage(settings.store_path), split, column)))
    stages = {(where, all_specs(settings)[name].stage) for where, name in gaps}
    commands = []
    for where in sorted({where for where, _ in gaps if where}, key=settings.splits.index):
        mine = [stage for stage in STAGES if (where, stage) in stages]
        if "index" in mine:
            commands.append(f"python cli.py index {settings.options(where)}")
        extract = [stage for stage in mine if stage in EXTRACTED]
        if extract:
            only = f" --stage {extract[0]}" if len(extract) == 1 else ""
            replace = " --replace" if any(_is_replaced(settings, *gap) for gap in gaps if gap[0] == where) else ""
            commands.append(f"python cli.py extract {settings.options(where)}{only}{replace}")
    if any(stage in ("means", "center") for _, stage in stages):
        commands.append("python cli.py normalize")
    return " && ".join(commands) or "python cli.py info"


def _gaps(
    settings: Settings, look: Lineage, split: SplitRef | None, column: str
) -> Iterator[tuple[SplitRef | None, str]]:
    """(split, column) of everything that is not done, from a column up to the index."""
    for read, where in upstream_columns(settings, column, split):
        yield from _gaps(settings, look, where, read)
    try:
        meta = look.meta(place_of(settings, split, column))
        done = (
            meta is not None
            and meta.fingerprint == _wanted(settings, split, column)
            and not any(look.why_not_current(place_of(settings, split, column), shard) for shard in range(meta.shards))
        )
    except StoreError:
        done = False
    if not done:
        yield split, column


def _wanted(settings: Settings, split: SplitRef | None, column: str) -> str:
    return wanted_fingerprint(settings, None if split is None else split.dataset, column, lenient=True)


def _is_replaced(settings: Settings, split: SplitRef | None, column: str) -> bool:
    """Whether a column has shards of other parameters that can be read now."""
    place, look = place_of(settings, split, column), Lineage(settings.store_path)
    try:
        meta = look.meta(place)
        if meta is None or meta.fingerprint == _wanted(settings, split, column):
            return False
        return any(look.why_not_current(place, shard) is None for shard in range(meta.shards))
    except StoreError:
        return False


def of_error(settings: Settings, error: StoreError) -> str:
    """What to type after a store error, as the end of a sentence; empty where nothing helps."""
    if isinstance(error, FailedImageError):  # computing it again fails again
        return ""
    place = error.place or ""
    wanted, own = wanted_columns(settings).get(place), split_of(settings, place)
    if isinstance(error, DamagedStoreError):
        if place and not wanted and not own:
            return "; these params do not name its data set and split: verify it with the params that made it"
        where = f" {settings.options(own[0])}" if own else ""
        return f"; run: python cli.py verify --repair{where}"
    if wanted:
        name, where_from = wanted
        return f"; run: {to_complete(settings, where_from, name)}"
    if not own:
        return ""
    if not own[1]:
        return f"; run: python cli.py index {settings.options(own[0])}"
    if is_there(column_dir(settings.store_path, place) / COLUMN_JSON):
        return "; the params do not name this column: remove its folder, or open the split without it"
    return f"; {_to_name(own[1])}"


def _to_name(column: str) -> str:
    """What to add to the params so that they name a column, and the verbs that compute it then."""
    parts, then = without_proposer(column).split("/"), "and extract it"
    if parts[0] == "centered":  # centered/<mean>/<column>
        parts, then = parts[2:], "extract it, and normalize"
    kind, name = parts[0], "/".join(parts[1:])
    section = _LISTS.get(kind)
    if section is None:
        section, name = "proposers", proposer_of(column) or ""
    return "the params do not name this column" + (f": add {name} to {section}, {then}" if name else "")


_LISTS = {
    "image_features": "embed.image_encoders",
    "sam_features": "embed.sam_features",
    "mask_embeddings": "embed.mask_encoders",
    "instance_embeddings": "embed.mask_encoders",
}
"""First part of the names of columns that an encoder makes -> where the params name it."""
