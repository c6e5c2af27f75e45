"""A comparison as tables for people, and as a JSON value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.commands.compare import Comparison
from stages.evaluate.paired import Difference
from stages.evaluate.tables import TITLES, as_text, line, one_line
from stages.report.choose import Key

SHOWN = ("miou_per_sample", "ciou", "giou_hull", "n_acc", "t_acc", "f1")
"""The common figures that tables show; all figures of a protocol are shown. The JSON has every one."""
_LETTERS = 60
"""How many letters of a question the table on a terminal shows."""

Rows = list[list[str]]


def figures_table(found: Comparison) -> tuple[list[str], Rows]:
    """Heading and rows: the figures of each system in percent, and by how much each is above the first, in points."""
    every = found.differences
    names = [
        name for name in TITLES if any(name in own for own in every.values()) and (found.protocol or name in SHOWN)
    ]
    firsts = {name: own[name].first for own in every.values() for name in own}
    rows = [[found.first, *(_percent(firsts[name]) for name in names)]]
    for system, own in every.items():
        rows.append([system, *(_percent(own[name].other) if name in own else "" for name in names)])
    for system, own in every.items():
        rows.append(
            [f"{system} minus {found.first}", *(own[name].in_points() if name in own else "" for name in names)]
        )
    return ["system", *(TITLES[name] for name in names)], rows


def groups_table(found: Comparison) -> tuple[list[str], Rows]:
    """Heading and rows: the main figures of each group of questions; no rows unless something has at least two groups."""
    rows, names = list[list[str]](), list[str]()
    groups = [(title, group) for title, own in found.groups[found.others[0]].items() for group in own]
    for title, group in groups:
        for system in found.others:
            own = found.groups[system][title][group]
            names = names or list(own)
            count = max((one.samples for one in own.values()), default=0)
            of_all = [cell for name in names for cell in _pair(own.get(name))]
            rows.append([f"{title}: {group}", str(count), system, *of_all])
    heading = [cell for name in names for cell in (f"{TITLES[name]} of {found.first}", "of the system", "difference")]
    return ["questions", "number", "system", *heading], rows


def changed_table(found: Comparison, system: str, keys: Sequence[Key]) -> tuple[list[str], Rows]:
    """Heading and rows: IoU of questions by a system and by the first."""
    place = {key: number for number, key in enumerate(found.keys)}
    rows = []
    for key in keys:
        iou = [found.systems[name].iou[key] for name in (found.first, system)]
        gain = found.changes[system].gain[place[key]]
        rows.append([_named(key), one_line(found.text(key)), f"{iou[0]:.3f}", f"{iou[1]:.3f}", f"{gain:+.3f}"])
    return ["question", "text", found.first, system, "difference"], rows


def won_and_lost(found: Comparison, system: str, cases: int) -> tuple[list[Key], list[Key]]:
    """The questions that a system won and lost by the most, at most ``cases`` each."""
    own = found.changes[system]
    won, lost = ([found.keys[number] for number in numbers[:cases]] for numbers in (own.won, own.lost))
    return won, lost


def counted(found: Comparison, system: str) -> str:
    """How many questions a system won and lost."""
    own, of = found.changes[system], len(found.keys)
    won, lost = len(own.won), len(own.lost)
    return (
        f"Of {of} questions {system} has the higher IoU in {won}, {found.first} in {lost}; {of - won - lost} are equal."
    )


def explained(found: Comparison) -> str:
    """What is compared, and what the figures are."""
    texts = "every text" if found.every else "first text"
    by = f", protocol {found.protocol}" if found.protocol else ""
    return (
        f"{len(found.keys)} questions about {found.images} images, which all have answered ({texts}{by}). Figures in percent; "
        "differences in percentage points, with 95 % intervals of a paired bootstrap over images: both systems see the same "
        "resamples. A star: the interval excludes 0."
    )


def as_markdown(found: Comparison, cases: int) -> str:
    """The comparison for a person. ``cases``: this many questions that were won, and lost, are shown."""
    lines = [
        f"# {', '.join(map(as_text, found.others))} compared with {as_text(found.first)} on {as_text(str(found.split))}",
        "",
    ]
    lines += [
        as_text(explained(found)),
        "",
        *(f"- {one_line(note)}" for note in found.notes),
        *([""] if found.notes else []),
    ]
    lines += _table(*figures_table(found), [0])
    heading, rows = groups_table(found)
    if rows:
        lines += ["", "## Kinds of questions", "", *_table(heading, rows, [0, 2])]
    for system in found.others:
        lines += ["", f"## Questions that {as_text(system)} won and lost", "", as_text(counted(found, system)), ""]
        won, lost = won_and_lost(found, system, cases)
        heading, rows = changed_table(found, system, [*won, *lost])
        if rows:
            lines += _table(heading, [[row[0], _cut(row[1]), *row[2:]] for row in rows], [0, 1])
    return "\n".join(lines)


def as_json(found: Comparison, cases: int) -> dict[str, Any]:
    """The comparison as a JSON value: all figures that both have, 0 to 1."""
    return {
        "dataset": found.split.dataset,
        "split": found.split.split,
        "protocol": found.protocol,
        "texts": "every" if found.every else "first",
        "first": found.first,
        "runs": [_about(found, name) for name in found.systems],
        "questions": len(found.keys),
        "images": found.images,
        "notes": found.notes,
        "differences": {system: _figures(own) for system, own in found.differences.items()},
        "groups": {
            system: {title: {group: _figures(own) for group, own in groups.items()} for title, groups in titles.items()}
            for system, titles in found.groups.items()
        },
        "changes": {system: _changes(found, system, cases) for system in found.others},
    }


def _about(found: Comparison, name: str) -> dict[str, Any]:
    meta = found.systems[name].meta
    side = found.sides[list(found.systems).index(name)]
    run = side.trained
    return {
        "name": name,
        "system": None if run is None else run[0].system,
        "digest": side.digest,
        "mode": meta.mode,
        "setting": meta.setting,
    }


def _changes(found: Comparison, system: str, cases: int) -> dict[str, Any]:
    own = found.changes[system]
    won, lost = (
        [
            {
                "target_id": key[0],
                "text_index": key[1],
                "image_id": found.questions[key[0]].image_id,
                "text": found.text(key),
                "iou": {name: _number(answers.iou[key]) for name, answers in found.systems.items()},
            }
            for key in keys
        ]
        for keys in won_and_lost(found, system, cases)
    )
    alike = len(found.keys) - len(own.won) - len(own.lost)
    return {"won": len(own.won), "lost": len(own.lost), "alike": alike, "most_won": won, "most_lost": lost}


def _figures(own: dict[str, Difference]) -> dict[str, Any]:
    return {
        name: {
            **{key: _number(getattr(one, key)) for key in ("first", "other", "gain", "low", "high")},
            "samples": one.samples,
        }
        for name, one in own.items()
    }


def _pair(one: Difference | None) -> list[str]:
    return ["", "", ""] if one is None else [_percent(one.first), _percent(one.other), one.in_points()]


def _percent(figure: float) -> str:
    return f"{100 * figure:.1f}"


def _number(figure: float) -> float | None:
    return None if math.isnan(figure) else round(figure, 6)


def _named(key: Key) -> str:
    return key[0] if not key[1] else f"{key[0]}, text {key[1]}"


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}..."


def _table(heading: Sequence[str], rows: Rows, named: Sequence[int]) -> Iterator[str]:
    """A table in Markdown. ``named``: the columns that hold text of others, which is escaped; the others are figures."""
    yield line(map(as_text, heading))
    yield line("---" for _ in heading)
    yield from (line(as_text(cell) if place in named else cell for place, cell in enumerate(row)) for row in rows)
