"""``verify`` with the settings at hand: damage, completeness, and repair through the pipeline."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from pipeline.config import InputError, Settings
from pipeline.errors import DAMAGED
from pipeline.executors import open_executor
from pipeline.graph import STAGES, identities, specs
from pipeline.means import make_mean, mean_state
from pipeline.plan import DONE, plan_split
from pipeline.run import run_stage
from store.verify import Problem, Report, repair, verify


def verify_store(settings: Settings, splits: tuple[str, ...], deep: bool) -> Report:
    """Check the splits and the means."""
    return verify(settings.store_path, [f"{settings.dataset}/{split}" for split in splits] + ["means"], deep)


def incomplete(settings: Settings, splits: tuple[str, ...]) -> list[str]:
    """A line for every column that the settings ask for and that is not done, with the reason."""
    dict(identities(settings))  # unknown models and missing digests are the settings' fault, not the store's
    lines = []
    for split in splits:
        try:
            plans, _ = plan_split(settings, split)
        except InputError as error:
            lines.append(str(error))
            continue
        for plan in plans:
            if plan.todo:
                first = plan.shards[plan.todo[0]]
                reason = first.state + (f": {first.reason}" if first.reason else "")
                lines.append(f"{plan.place}: {len(plan.todo)} of {plan.meta.shards} shards not done ({reason})")
            elif not plan.begun:
                lines.append(
                    f"{plan.place}: column.json or zarr.json is not what it has to be, or a killed run left files"
                )
    for encoder in settings.embed.mask_encoders:
        state = mean_state(settings, encoder)
        if state != DONE:
            lines.append(f"means/{settings.normalize.name}/{encoder}: {state}")
    return lines


def verify_command(
    settings: Settings, splits: tuple[str, ...], deep: bool, complete: bool, repairing: bool, as_json: bool
) -> tuple[int, str]:
    """What ``verify`` prints and its exit code: 0, or 4 for damage (with ``complete`` also for anything not done)."""
    report = verify_store(settings, splits, deep)
    lines = []
    if repairing and report.problems:
        removed = repair(report)
        lines.append(f"repair: removed {len(removed)} files; computing their shards again")
        recompute(settings, report.problems)
        report = verify_store(settings, splits, deep)
    gaps = incomplete(settings, splits) if complete else []
    code = DAMAGED if report.problems or gaps else 0
    if as_json:
        problems = [str(problem) for problem in report.problems]
        values = {
            **{key: value for key, value in vars(report).items() if key != "problems"},
            "problems": problems,
            "not_done": gaps,
        }
        return code, json.dumps(values, indent=1)
    lines += [f"damage: {problem}" for problem in report.problems]
    lines += [f"not done: {gap}" for gap in gaps]
    checked = "every byte digested" if deep else "sizes, commits and identities"
    lines.append(
        f"{settings.store}/{settings.dataset}: {report.columns} columns, {report.done} shards done, {report.missing} missing, "
        f"{report.stale} stale; {report.files} files, {report.bytes / 1e6:.1f} MB checked ({checked})"
    )
    if report.problems:
        lines.append("to mend it: python cli.py verify --repair")
    return code, "\n".join(lines)


def recompute(settings: Settings, problems: Sequence[Problem]) -> None:
    """Compute what repair removed, and nothing else: shards of the params' columns, and the means."""
    damaged: dict[tuple[str, str], set[int]] = defaultdict(set)
    for problem in problems:
        parts = problem.place.split("/")
        column = "/".join(parts[2:])
        if parts[0] == settings.dataset and column in specs(settings) and problem.files:
            damaged[parts[1], specs(settings)[column].stage] |= set() if problem.shard is None else {problem.shard}
    with open_executor(settings) as executor:
        for stage in STAGES:
            if stage == "normalize" and any(problem.place.startswith("means/") for problem in problems):
                for encoder in settings.embed.mask_encoders:
                    make_mean(settings, encoder, executor)
            for split in settings.splits:
                if (split, stage) in damaged:
                    run_stage(settings, stage, split, executor, shards=damaged[split, stage])
