"""The table of all questions on a page, and the parameters and digests at its foot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.commands.report_runs import Found
from pipeline.config import Settings
from pipeline.external import external_runs
from stages.evaluate.cases import Question
from stages.evaluate.score import Scores
from stages.evaluate.tables import one_line
from stages.names import SplitRef
from stages.report.choose import Key
from stages.report.page import Every, Listed, Shown
from stages.report.shown import Answers
from stages.train.run_digest import column_digest
from store import Split


def every_question(
    asked: Iterable[Question],
    systems: Mapping[str, Answers],
    oracles: Mapping[str, Mapping[Key, float]],
    cases: Sequence[Shown],
) -> Every | None:
    """Each question with the IoU of each system and oracle; None where there is no question.

    Args:
        oracles: what else has an IoU for each question.
        cases: the questions that the page shows with their pictures.
    """
    columns: dict[str, Mapping[Key, float]] = {**{name: answers.iou for name, answers in systems.items()}, **oracles}
    several = {text for iou in columns.values() for _, text in iou if text}
    # The page numbers its cases: the pictures of a target are at the first of them.
    anchors = {case.target_id: f"question-{number}" for number, case in reversed(list(enumerate(cases, start=1)))}
    rows = [
        Listed(
            question.target_id if not text else f"{question.target_id}, text {text}",
            one_line(str(question.target["texts"][text])) if question.target["texts"] else "",
            [_known(iou.get((question.target_id, text))) for iou in columns.values()],
            anchors.get(question.target_id, ""),
        )
        for question in asked
        for text in range(question.texts if several else 1)
    ]
    return Every(["question", "text", *columns], rows) if rows else None


def by_question(found: Scores, name: str) -> dict[Key, float]:
    """IoU of each question for one of the systems that were scored."""
    return dict(zip(found.asked, found.systems[name].iou.tolist(), strict=True))


def parameters_and_digests(
    settings: Settings, split: SplitRef, runs: Sequence[Found], systems: Mapping[str, Answers], opened: Split
) -> Iterator[tuple[str, str]]:
    """Title and text: each run's record, how each system answered, and what the columns of the split hold."""
    for run in runs:
        about = {name: value for name, value in run.held.about.items() if name != "history"}
        yield f"run {run.name}: sha256 {run.held.digest}", _json({"digest": run.held.digest, **about})
    for one in external_runs(settings):
        if one.name in systems:
            yield f"external {one.name}: sha256 {one.digest}", _json(dict(one.splits[str(split)]))
    for name, answers in systems.items():
        meta = answers.meta
        how = {"mode": meta.mode, "setting": meta.setting, "texts": meta.texts, "run": meta.run}
        recorded = {"answering": json.loads(meta.answering), "columns": json.loads(meta.columns)}
        yield f"answers of {name}", _json({**how, **recorded})
    yield f"columns of {split}", _json({column.place: column_digest(column) for column in opened.columns.values()})
    yield (
        "parameters of this page",
        _json({"embed": settings.embed.model_dump(mode="json"), "proposers": _proposers(settings)}),
    )


def _proposers(settings: Settings) -> dict[str, object]:
    found = settings.model_dump(mode="json", include={"proposers"})["proposers"]
    return dict(found)


def _known(iou: float | None) -> float | None:
    return None if iou is None or iou != iou else round(iou, 6)


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True)
