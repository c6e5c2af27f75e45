"""What the store holds, what is missing or stale, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import InputError, Settings
from pipeline.graph import all_specs
from pipeline.look import Look
from pipeline.plan import DAMAGED, DONE, MISSING, STALE, ColumnPlan, plan_reduction, plan_split
from pipeline.preflight import missing_weights
from pipeline.tally import vectors_of
from pipeline.upstream import known_sources
from stages.names import SplitRef
from store.format.layout import find_columns, find_splits, what_exists
from store.format.schema import ABSENT
from store.storage.listing import folders, is_folder


def describe(settings: Settings, splits: tuple[SplitRef, ...]) -> dict[str, Any]:
    """The store as a JSON value: per split its columns, per column shards by state, images by status, bytes and reasons."""
    known = all_specs(settings)  # unknown models are the settings' fault, not the store's
    store = settings.store_path
    if not is_folder(store) and any(map(find_splits, folders(store.parent))):
        raise InputError(
            f"store: {what_exists(store)}; name one of them as the store in the params, or index into a new one"
        )
    found: dict[str, Any] = {"store": settings.store, "splits": {}, "means": {}}
    look = Look(settings)
    for split in splits:
        entry: dict[str, Any] = {"holder": settings.holder(split.dataset), "columns": {}}
        found["splits"][str(split)] = entry
        try:
            plans, remark = plan_split(settings, split, lenient=True, look=look)
        except InputError as error:
            entry["images"], entry["remark"] = len(known_sources(settings, split)), str(error)
            continue
        entry["images"] = plans[0].meta.images
        entry["columns"] = {plan.spec.name: _column(look, plan) for plan in plans}
        entry["absent"] = entry["columns"].get("targets", {"status": {}})["status"].get(ABSENT, 0)
        entry["unlisted"] = entry["columns"]["images"]["status"].get(ABSENT, 0)
        if remark:
            entry["remark"] = remark
        others = set(find_columns(settings.store_path, split.dataset, split.split)) - set(entry["columns"])
        if others:
            entry["not_in_params"] = sorted(others)
    means = plan_reduction(settings, "means", lenient=True, look=look)
    found["means"] = {plan.spec.name: _column(look, plan) for plan in means}
    found["weights_missing"] = list(missing_weights(settings, known))
    return found


def _column(look: Look, plan: ColumnPlan) -> dict[str, Any]:
    states = Counter(shard.state for shard in plan.shards)
    status: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    size = entries = omitted = 0
    for number, shard in enumerate(plan.shards):
        commit = look.records.commit(plan.place, number) if shard.state in (DONE, STALE) else None
        if commit is not None:
            status.update(commit.status)
            errors.update(why for at, why in commit.errors.items() if commit.status[int(at)] != ABSENT)
            notes.update(commit.extra.get("notes", {}))
            size += commit.size
            entries += vectors_of(plan, commit)
            omitted += commit.omitted
    reasons = {f"{shard.state}: {shard.reason}" for shard in plan.shards if shard.reason}
    if states[DONE] and not plan.begun:
        reasons.add("column.json or zarr.json has the wrong content; the next run writes it again")
    shape = None if plan.spec.layout is None else [plan.meta.images, *plan.spec.layout.row_shape]
    return {
        "shards": {state: states[state] for state in (DONE, MISSING, STALE, DAMAGED)},
        "why": sorted(reasons),
        "status": dict(status),
        "errors": dict(errors),
        "notes": dict(notes),
        "entries": entries,
        "omitted": omitted,
        "shape": shape,
        "bytes": size,
    }


def as_text(found: dict[str, Any]) -> str:
    """What :func:`describe` found, as text for a person."""
    lines = [f"store {found['store']}"]
    for split, entry in found["splits"].items():
        without = f", {entry['absent']} of them without annotation" if entry.get("absent") else ""
        without += f", {entry['unlisted']} not listed by {entry['holder']}" if entry.get("unlisted") else ""
        of = f" of {entry['holder']}" if entry.get("holder") else ""
        lines += ["", f"{split}: {entry.get('images', 0)} images{of}{without}"]
        lines += [f"  {entry['remark']}"] if "remark" in entry else []
        lines += _lines(entry["columns"])
        if "not_in_params" in entry:
            lines.append(
                f"  not asked for by the params (remove the folder to be rid of it): {', '.join(entry['not_in_params'])}"
            )
    if found["means"]:
        lines += ["", "means", *_lines(found["means"])]
    if found["weights_missing"]:
        lines += ["", "weights that are not here yet"]
        lines += [f"  {line}" for line in found["weights_missing"]]
    return "\n".join(lines)


_REASONS = 5
"""How many reasons are printed per column: each shard may have its own, which names its images."""


def _lines(columns: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """A line per column, with one for each reason, failure and note."""
    width = max((len(name) for name in columns), default=0)
    for name, column in columns.items():
        yield f"  {name:<{width}}  {_states(column)}"
        remarks = [
            *column["why"][:_REASONS],
            *(
                [f"and for {more} more reasons; info --json has all"]
                if (more := len(column["why"]) - _REASONS) > 0
                else []
            ),
            *(f"failed: {count} x {reason}" for reason, count in sorted(column["errors"].items())),
            *(f"noted: {count} x {note}" for note, count in sorted(column["notes"].items())),
        ]
        yield from (f"  {'':<{width}}    {remark}" for remark in remarks)


def _states(column: dict[str, Any]) -> str:
    shards = column["shards"]
    total = sum(shards.values())
    parts = [f"{shards[DONE]}/{total} shards done"]
    parts += [f"{shards[state]} {state}" for state in (MISSING, STALE, DAMAGED) if shards[state]]
    parts.append(
        f"{column['entries']} entries"
        if column["shape"] is None
        else f"{column['entries']} vectors of {column['shape']}"
    )
    if column["omitted"]:
        parts.append(f"{column['omitted']} left out")
    parts.append(_bytes(column["bytes"]))
    return ", ".join(parts)


def _bytes(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
