"""What the options before a verb say: the settings, the splits that are meant; and a run of stages with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pipeline.config import Settings
    from stages.names import SplitRef


def settings_of(context: typer.Context, **run: Any) -> Settings:
    """The settings of the params file, with what --set and the options of section ``run`` change; raises as ``load_settings``."""
    from pipeline.errors import remember
    from pipeline.params_file import load_settings

    params, overrides = context.obj
    if run.get("scheduler") and run.get("executor") is None:
        run["executor"] = "dask"
    settings = load_settings(params, overrides, {f"--{key}": value for key, value in run.items() if value is not None})
    before = ["--params", str(params)] if params != Path("params.yaml") else []
    remember(settings, [*before, *(part for override in overrides for part in ("--set", override))])
    if (run.get("device") == "cuda" or "run.device=cuda" in overrides) and settings.run.executor == "local":
        from pipeline.shard import require_device

        require_device(settings)  # also where nothing is left to compute
    return settings


def asked_splits(settings: Settings, split: str | None, data: list[str] | None) -> tuple[SplitRef, ...]:
    """The splits that trained systems are asked about: of ``--split``, or those of ``evaluate.splits`` that ``--data`` leaves."""
    chosen = chosen_splits(settings, split, data)
    return chosen if split else tuple(one for one in settings.evaluated if one in chosen)


def chosen_splits(settings: Settings, split: str | None, data: list[str] | None) -> tuple[SplitRef, ...]:
    """The splits that ``--split`` and ``--data`` name, all where they name none."""
    return settings.select(split, [name for names in data or () for name in names.split(",")])


def compute(settings: Settings, stages: tuple[str, ...], splits: tuple[SplitRef, ...], **options: Any) -> None:
    """Run stages with the executor of the settings, print what they did and exit with its code."""
    from pipeline.compute import compute_stages
    from pipeline.executors import open_executor
    from pipeline.summary import finish

    with open_executor(settings) as executor:
        summaries = compute_stages(settings, stages, splits, executor, **options)
    raise typer.Exit(finish(settings, summaries, dry_run=bool(options.get("dry_run"))))
