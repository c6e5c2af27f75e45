"""What ``compare`` says of how its systems differ in what they were trained on, were asked, and answered with."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.commands.compare_runs import Side
from pipeline.config import Settings
from pipeline.run_folders import changed_columns, outdated, outdated_answers, some, trained_on
from stages.names import SplitRef
from stages.predictions import Meta
from stages.train.folder import Held
from stages.train.run_digest import differences
from store.format.names import proposers_of


def notes_on(
    settings: Settings,
    split: SplitRef,
    found: Sequence[Side],
    metas: Mapping[str, Meta],
    counts: Mapping[str, tuple[int, int]],
    shared: int,
    asked: int,
) -> list[str]:
    """What systems differ in besides their answers, a sentence each.

    Args:
        metas: name of a system -> the record of its answers.
        counts: name -> how many of the ``asked`` questions it answered, and how many of its answers are to other questions.
        shared: how many all have answered.
    """
    return [
        *_questions(counts, shared, asked),
        *_asked_otherwise(metas),
        *_trained(split, found),
        *_out_of_date(settings, found, metas),
    ]


def _questions(counts: Mapping[str, tuple[int, int]], shared: int, asked: int) -> Iterator[str]:
    if shared < asked:
        each = ", ".join(f"{name} {own}" for name, (own, _) in counts.items())
        yield f"{shared} of {asked} questions are compared, those that all have answered; answered: {each}."
    for name, (_, other) in counts.items():
        if other:
            yield f"{name}: {other} answers are to no question of the split, and are left out."


def _asked_otherwise(metas: Mapping[str, Meta]) -> Iterator[str]:
    """Differences in how they were asked."""
    proposers = {
        name: ", ".join(sorted(proposers_of(_mapping(meta.columns)))) for name, meta in metas.items() if meta.run
    }
    for what, values in (
        (
            "asked in different ways (generated and teacher-forced answers cannot be compared)",
            {n: m.mode for n, m in metas.items()},
        ),
        ("chose from different candidates", {name: meta.setting for name, meta in metas.items()}),
        ("asked different texts of a target", {name: meta.texts for name, meta in metas.items()}),
        ("chose from masks of different proposers", {name: found for name, found in proposers.items() if found}),
    ):
        if len(set(values.values())) > 1:
            yield (
                f"They were {what}: {_each(values)}." if what.startswith("asked") else f"They {what}: {_each(values)}."
            )
    answered = {name: _mapping(meta.answering) for name, meta in metas.items()}
    names = dict.fromkeys(name for values in answered.values() for name in values)
    for parameter in names:
        have = {name: json.dumps(values[parameter]) for name, values in answered.items() if parameter in values}
        if len(set(have.values())) > 1:
            yield f"train.{parameter}, which decides how they answer, differs: {_each(have)}."
    columns = {name: _mapping(meta.columns) for name, meta in metas.items()}
    places = dict.fromkeys(place for values in columns.values() for place in values)
    other = [place for place in places if len({values[place] for values in columns.values() if place in values}) > 1]
    if other:
        yield f"They read different contents of {', '.join(other)}: some of the answers are older than others."


def _trained(split: SplitRef, found: Sequence[Side]) -> Iterator[str]:
    """What each was trained on, and in which parameters runs of one system differ."""
    runs = {one.name: one.trained for one in found if one.trained is not None}
    data = {name: ", ".join(trained_on(state)) for name, (_, state, _) in runs.items()}
    if len(set(data.values())) > 1:
        yield f"They were trained on different data: {_each(data)}."
    if seen := [name for name, (_, state, _) in runs.items() if str(split) in trained_on(state)]:
        yield f"{', '.join(seen)}: trained on {split}, which is compared here."
    first = next(iter(runs.items()), None)
    for name, (run, state, _) in list(runs.items())[1:]:
        assert first is not None
        if run.system == first[1][0].system and (differ := differences(_whole(first[1][1]), _whole(state))):
            yield f"{name} differs from {first[0]}: {some([str(one) for one in differ])}."
    if files := [one.name for one in found if one.trained is None]:
        yield f"{', '.join(files)}: external predictions; only their makers know what was asked and how the system was trained."


def _out_of_date(settings: Settings, found: Sequence[Side], metas: Mapping[str, Meta]) -> Iterator[str]:
    for one in found:
        meta, of_run, of_answers = metas[one.name], list[str](), list[str]()
        with contextlib.suppress(ValueError):
            if one.trained is None:
                of_answers = [f"{name} changed since" for name in changed_columns(settings, _mapping(meta.columns))]
            else:
                run, state, free = one.trained
                of_run = outdated(settings, run, state, free)
                of_answers = outdated_answers(settings, run, state, free, meta)
        if reasons := [*of_run, *of_answers]:
            ask = one.to_ask(settings, SplitRef(meta.dataset, meta.split), bool(of_run))
            yield f"{one.name} is out of date ({some(reasons)}){ask}"


def _whole(state: Held) -> dict[str, Any]:
    """A run's record with all fields that are compared; older records lack some."""
    return {"version": None, "llava": None, "columns": {}, **state.about}


def _each(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _mapping(text: str) -> dict[str, Any]:
    """A JSON object; empty for any other text."""
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        return found if isinstance(found, dict) else {}
    return {}
