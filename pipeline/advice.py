"""What to type: the commands that make a column complete, or that mend what a store error reports."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import Settings
from pipeline.graph import EXTRACTED, STAGES, specs, upstream_columns, wanted_fingerprint
from pipeline.plan import place_of, wanted_columns
from store.errors import DamagedStoreError, StoreError
from store.format.layout import parts_of
from store.format.lineage import Lineage


def to_complete(settings: Settings, split: str | None, column: str) -> str:
    """The commands that bring a column, and whatever it is computed from, up to date; in the order in which they work."""
    gaps = list(dict.fromkeys(_gaps(settings, Lineage(settings.store_path), split, column)))
    stages = {(where, specs(settings)[name].stage) for where, name in gaps}
    commands = []
    for where in sorted({where for where, _ in gaps if where}, key=settings.splits.index):
        mine = [stage for stage in STAGES if (where, stage) in stages]
        if "index" in mine:
            commands.append(f"python cli.py index --split {where}")
        extract = [stage for stage in mine if stage in EXTRACTED]
        if extract:
            only = f" --stage {extract[0]}" if len(extract) == 1 else ""
            replace = " --replace" if any(_is_replaced(settings, *gap) for gap in gaps if gap[0] == where) else ""
            commands.append(f"python cli.py extract --split {where}{only}{replace}")
    if any(stage in ("means", "center") for _, stage in stages):
        commands.append("python cli.py normalize")
    return " && ".join(commands) or "python cli.py info"


def _gaps(settings: Settings, look: Lineage, split: str | None, column: str) -> Iterator[tuple[str | None, str]]:
    """(split, column) of everything that is not done, from a column up to the index."""
    for read, where in upstream_columns(settings, column, split):
        yield from _gaps(settings, look, where, read)
    try:
        meta = look.meta(place_of(settings, split, column))
        done = (
            meta is not None
            and meta.fingerprint == wanted_fingerprint(settings, column, lenient=True)
            and not any(look.why_not_current(place_of(settings, split, column), shard) for shard in range(meta.shards))
        )
    except StoreError:
        done = False
    if not done:
        yield split, column


def _is_replaced(settings: Settings, split: str | None, column: str) -> bool:
    """Whether a column has shards of other parameters that can be read now."""
    place, look = place_of(settings, split, column), Lineage(settings.store_path)
    try:
        meta = look.meta(place)
        if meta is None or meta.fingerprint == wanted_fingerprint(settings, column, lenient=True):
            return False
        return any(look.why_not_current(place, shard) is None for shard in range(meta.shards))
    except StoreError:
        return False


def of_error(settings: Settings, error: StoreError) -> str:
    """What to type after a store error, as the end of a sentence; empty where nothing helps."""
    place = error.place or ""
    wanted = wanted_columns(settings).get(place)
    dataset, column, split = _parts(place)
    own = dataset == settings.dataset and split in settings.splits
    if isinstance(error, DamagedStoreError):
        if place and not wanted and not own:
            return "; it is not of the data set and the splits of these params: verify it with those that made it"
        where = f" --split {split}" if own else ""
        return f"; run: python cli.py verify --repair{where}"
    if wanted:
        name, where_from = wanted
        return f"; run: {to_complete(settings, where_from, name)}"
    if not own:
        return ""
    if not column:
        return f"; run: python cli.py index --split {split}"
    return "; the params do not name this column: remove its folder, or open the split without it"


def _parts(place: str) -> tuple[str, str, str]:
    """Data set, column and split of a place; the column is empty where a whole split is meant."""
    if place.count("/") == 1:
        dataset, _, split = place.partition("/")
        return dataset, "", split
    return parts_of(place) if place else ("", "", "")
