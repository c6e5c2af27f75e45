"""The verbs that compute what a store holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.options import (
    DataOption,
    DeviceOption,
    ExecutorOption,
    PartOption,
    SchedulerOption,
    SplitOption,
)  # fmt: skip
from pipeline.verbs.given import chosen_splits, compute, settings_of

if TYPE_CHECKING:
    pass

WITH_PLAN = "With --plan"


def index(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    holders: Annotated[
        bool, typer.Option("--holders", help="Only data sets that hold their own images, which others borrow.")
    ] = False,
    part: PartOption = None,
    executor: ExecutorOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Read the data sets: images, instances, targets. A data set that borrows its images is read after the one that holds them.

    Examples:

    `python cli.py index --split val`

    `python cli.py index --data demo --part 0/4`
    """
    from pipeline.summary import only_holders
    from pipeline.usage import part_of

    settings = settings_of(context, executor=executor, scheduler=scheduler)
    chosen = chosen_splits(settings, split, data)
    chosen = only_holders(settings, chosen) if holders else chosen
    compute(settings, ("index",), chosen, replace=True, part=part_of(part))


def extract(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    stage: Annotated[Optional[str], typer.Option("--stage", help="masks, embed or match; default: all three.")] = None,  # noqa: UP045
    proposer: Annotated[
        list[str] | None,
        typer.Option("--proposer", help="Only columns of these proposers, and columns that depend on no proposer."),
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", help="Only these encoders (with stage embed).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N images, rounded up to whole shards.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute shards with failed images again.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace finished shards that were made with other parameters.")
    ] = False,
    part: PartOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be computed, and how much time and disk it takes.")
    ] = False,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Estimate what everything takes, also on other cards: hours, bytes, requests, money."
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Workers, each with a card; default: run.workers.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="The card of each worker; default: this machine's.", rich_help_panel=WITH_PLAN),
    ] = None,
    images: Annotated[
        list[int] | None,
        typer.Option(
            "--images",
            min=1,
            help="Number of images to plan for, which need not exist; may be repeated. Default: the indexed images.",
            rich_help_panel=WITH_PLAN,
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Size of the images in px, once for each --images; default: 640x480.",
            rich_help_panel=WITH_PLAN,
        ),
    ] = None,
    masks: Annotated[
        float | None,
        typer.Option(
            "--masks",
            min=0,
            help="Masks per image, for images whose masks are not computed yet.",
            rich_help_panel=WITH_PLAN,
        ),
    ] = None,
    regions: Annotated[
        float | None,
        typer.Option(
            "--regions", min=0, help="Annotated regions per image of --images; default: 0.", rich_help_panel=WITH_PLAN
        ),
    ] = None,
    questions: Annotated[
        float | None,
        typer.Option(
            "--questions", min=0, help="Questions per image of --images; default: 0.", rich_help_panel=WITH_PLAN
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=WITH_PLAN)] = False,
    device: DeviceOption = None,
    executor: ExecutorOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Segment, embed and match: compute only the shards that are missing or stale.

    Finished shards that were made with other parameters are replaced only with --replace; without it, the command stops, lists
    them and says which parameters differ.

    Examples:

    `python cli.py extract --split val`

    `python cli.py extract --split val --proposer demo_sam`

    `python cli.py extract --split val --stage embed --encoder demo_dinov2`

    `python cli.py extract --split train --limit 100 --executor dask`

    `sbatch --array=0-7 --gres=gpu:1 --wrap 'python cli.py extract --part $SLURM_ARRAY_TASK_ID/8'` shares the shards out over
    eight jobs of Slurm

    `python cli.py extract --split train --limit 1 && python cli.py extract --split train --dry-run` measures a first shard, and
    estimates the time and disk for the others

    `python cli.py --params params/reasonseg.yaml extract --plan --images 118287 --size 640x480 --gpu rtx-3090 --workers 4` needs no
    images, no weights and no GPU: it estimates what that many images take with these parameters (docs/scale.md)
    """
    from pipeline.config import InputError
    from pipeline.usage import part_of
    from stages.names import did_you_mean

    settings = settings_of(context, device=device, executor=executor, scheduler=scheduler, workers=workers)
    asked = {"--gpu": gpu, "--images": images, "--size": size, "--masks": masks, "--regions": regions}
    asked |= {"--questions": questions, "--json": as_json or None}
    asked = {option: value or None if isinstance(value, list) else value for option, value in asked.items()}
    if plan:
        from pipeline.commands.plan import as_text, plan_command

        others = {"--stage": stage, "--proposer": proposer, "--encoder": encoder, "--limit": limit, "--part": part}
        others |= {"--retry-failed": retry_failed, "--replace": replace, "--dry-run": dry_run}
        if wrong := [option for option, value in others.items() if value]:
            raise InputError(f"--plan is about all images and columns; found {wrong[0]}, which does not go with it")
        found = plan_command(settings, chosen_splits(settings, split, data), asked)
        print(json.dumps(found, indent=1) if as_json else as_text(found))
        return
    if needless := [option for option, value in asked.items() if value is not None]:
        raise InputError(f"{needless[0]} is about --plan; found no --plan")
    if stage not in (None, *(every := ("masks", "embed", "match"))):
        raise InputError(f"--stage: found {stage!r}, expected masks, embed or match{did_you_mean(stage, every)}")
    encoders = (*settings.embed.mask_encoders, *settings.embed.imported, *settings.embed.image_encoders)
    for option, given, section, known in (
        ("--proposer", proposer, "proposers", tuple(settings.proposers)),
        ("--encoder", encoder, "embed", encoders),
    ):
        if unknown := sorted(set(given or ()) - set(known)):
            expected = (
                f"expected one of {', '.join(known)}{did_you_mean(unknown[0], known)}" if known else "it names none"
            )
            raise InputError(
                f"{option}: found {unknown[0]!r}, which section {section} of the params does not name; {expected}"
            )
    stages = (stage,) if stage else every
    how = {"limit": limit, "retry_failed": retry_failed, "dry_run": dry_run, "replace": replace, "part": part_of(part)}
    chosen = chosen_splits(settings, split, data)
    compute(settings, stages, chosen, only=encoder or (), proposers=proposer or (), **how)


def normalize(
    context: typer.Context,
    data: DataOption = None,
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--stage", help="means, or center (with the similarity report); default: both."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed.")] = False,
    executor: ExecutorOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Compute the train means (section means), subtract them from the embeddings of all splits, and report similarities.

    Examples:

    `python cli.py normalize`

    `python cli.py normalize --stage means --dry-run`

    `python cli.py normalize --stage center --data demo`
    """
    from pipeline.commands.normalize import STAGES, run_normalize
    from pipeline.config import InputError
    from pipeline.executors import open_executor
    from pipeline.summary import finish
    from stages.names import did_you_mean

    if stage not in (None, *STAGES):
        raise InputError(f"--stage: found {stage!r}, expected {' or '.join(STAGES)}{did_you_mean(stage, STAGES)}")
    settings = settings_of(context, executor=executor, scheduler=scheduler)
    splits = chosen_splits(settings, None, data)
    with open_executor(settings) as chosen:
        summaries = run_normalize(settings, chosen, (stage,) if stage else STAGES, splits, dry_run)
    raise typer.Exit(finish(settings, summaries, dry_run))
