"""Asks a trained system the questions of one split, or of all, as a protocol does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.commands.evaluate import evaluate_command, published_of, texts_of
from pipeline.commands.train import answers
from pipeline.config import InputError, Settings
from pipeline.runs import Run, not_trained
from stages.datasets import FORMATS
from stages.evaluate.cases import questions
from stages.evaluate.protocols import PROTOCOLS, usual_of
from stages.evaluate.published import MARK
from stages.evaluate.tables import as_text, line
from stages.names import SplitRef
from stages.train.folder import held
from stages.train.systems import SYSTEMS
from store import open_split
from store.errors import DamagedStoreError, StoreError

COLUMNS = (
    ("mean IoU", ("miou_per_sample", "giou", "miou", "ref_miou")),
    ("cIoU", ("ciou", "ref_oiou")),
    ("ncIoU", ("nciou",)),
    ("P@0.5", ("p5",)),
    ("See", ("see",)),
    ("N-acc", ("n_acc",)),
    ("T-acc", ("t_acc",)),
    ("r", ("r",)),
    ("rIoU", ("riou",)),
)
"""Heading -> the figures that stand below it, named without the prefix of a protocol."""
_USUAL = ("mean IoU", "cIoU", "N-acc", "T-acc")
"""The common figures that are shown."""


def answered(
    settings: Settings,
    run: Run,
    split: SplitRef,
    mode: str | None,
    setting: str,
    protocol: str | None,
    texts: str | None,
    with_controls: bool = False,
) -> Path:
    """A run's answers to a split; ``mode`` and ``texts`` are those of the protocol where they are not given.

    A system that lacks the protocol's mode answers in its own.

    Raises:
        InputError: controls are wanted next to answers to every text.
    """
    wanted = PROTOCOLS[protocol].mode if protocol else None
    if mode is None:
        mode = wanted if wanted in SYSTEMS[run.system].modes else "generated"
    asked = texts or texts_of(settings, split, protocol) or "first"
    if with_controls and asked == "every":
        by = f"--protocol {protocol}" if texts is None else "--texts every"
        raise InputError(
            f"evaluate: found --controls with {by}; controls ask the first text of each target: leave one out"
        )
    return answers(settings, run, split, mode, setting=setting, texts=asked)


def evaluate_all(
    settings: Settings,
    run: Run,
    splits: Sequence[SplitRef],
    mode: str | None = None,
    setting: str = "proposals",
    protocol: str | None = None,
    texts: str | None = None,
) -> tuple[str, list[dict[str, Any]]]:
    """Ask and score a run on every split that has questions, each by the protocol that fits its format.

    Args:
        splits: those to look at.
        mode, texts: as :func:`answered`.
        protocol: by which all are scored; None: the usual one of each format, or the common figures.

    Returns:
        One table in Markdown, with the papers' rows below each split, and the figures of each split as
        :func:`pipeline.commands.evaluate.evaluate_command` gives them.

    Raises:
        InputError: the run is not trained, or no split can be scored.
    """
    refused = not_trained(settings, run, held(run.folder), ("evaluate", *run.words, "--all"))
    if refused is not None:
        raise refused
    trained_on = set(settings.refs("train", run.params.splits))
    found, left_out = [], {}
    for split in splits:
        data_format = settings.data[split.dataset].format
        if not FORMATS[data_format].annotated:
            continue
        by = protocol or usual_of(data_format)
        try:
            if not _has_questions(settings, split):
                left_out[split] = "it has no question that a mask answers"
                continue
            path = answered(settings, run, split, mode, setting, by, texts)
            figures = evaluate_command(settings, split, path, protocol=by, texts=texts, baselines=False)[1]
        except DamagedStoreError:
            raise
        except (InputError, StoreError) as error:
            left_out[split] = str(error)
            continue
        found.append({**figures, "trained_on": split in trained_on, "published": _published(settings, split, by)})
    if not found:
        reasons = "; ".join(f"{split}: {why}" for split, why in left_out.items()) or "no data set has questions"
        raise InputError(f"evaluate --all: there is no split to score: {reasons}")
    lines = [
        f"# {as_text(run.name)} on all splits with questions",
        "",
        "In percent, with 95 % bootstrap intervals over images. refcoco: mean IoU and cIoU (oIoU) over sentences; gres: gIoU, "
        "cIoU, N-acc and T-acc; no protocol: the mean of the samples' IoU, cIoU, and existence by the mask.",
        "",
        *_table(found),
        "",
        *(f"- Left out: {split}: {as_text(why)}" for split, why in left_out.items()),
    ]
    return "\n".join(lines), found


def _has_questions(settings: Settings, split: SplitRef) -> bool:
    opened = open_split(settings.store_path, split.dataset, split.split, columns=["images", "targets"])
    return next(questions(opened), None) is not None


def _published(settings: Settings, split: SplitRef, protocol: str | None) -> list[dict[str, Any]]:
    """The papers' rows for the whole split that have a figure in one of the table's columns."""
    rows = [row for row in published_of(settings, split, protocol) if row.group == "all"]
    cells = [(row, _cells(row.percent, protocol)) for row in rows]
    return [{"system": row.system, "source": row.source, "percent": dict(row.percent)} for row, shown in cells if shown]


def _table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A row for each split, and one for each published one."""
    rows: list[tuple[list[str], dict[str, str]]] = []
    for figures in found:
        own = figures["groups"]["all"][figures["system"]]
        place = f"{figures['dataset']}/{figures['split']}" + " (trained on)" * figures["trained_on"]
        by = figures["protocol"]
        first = [
            as_text(place),
            by or "",
            figures["texts"],
            figures["mode"].replace("_", "-"),
            str(figures["questions"]),
        ]
        rows.append((first, {name: _with_interval(cell) for name, cell in _cells(own, by).items()}))
        for row in figures["published"]:
            shown = {name: f"{cell:g}" for name, cell in _cells(row["percent"], by).items()}
            rows.append(([as_text(f"{row['system']} ({MARK}: {row['source']})"), "", "", "", ""], shown))
    columns = [name for name, _ in COLUMNS if any(name in cells for _, cells in rows)]
    yield line(["split", "protocol", "texts", "answers", "questions", *columns])
    yield line(["---", "---", "---", "---", "---:", *("---:" for _ in columns)])
    for first, cells in rows:
        yield line([*first, *(cells.get(name, "") for name in columns)])


def _cells(figures: Mapping[str, Any], protocol: str | None) -> dict[str, Any]:
    """Heading -> the figure that stands below it."""
    before = f"{protocol}_" if protocol else ""
    shown = [column for column in COLUMNS if protocol or column[0] in _USUAL]
    found = (
        (heading, next((f"{before}{one}" for one in names if f"{before}{one}" in figures), ""))
        for heading, names in shown
    )
    return {heading: figures[name] for heading, name in found if name}


def _with_interval(cell: Mapping[str, float]) -> str:
    low, high = (f"{100 * cell[key]:.1f}" if cell[key] is not None else "" for key in ("low", "high"))
    return f"{100 * cell['value']:.1f} [{low}, {high}]"
