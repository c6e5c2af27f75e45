"""Command line of the ELISA feature store. Parses, calls the pipeline, prints; no logic here."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from pipeline import completion
from pipeline.options import (
    AskedOption,
    DataOption,
    DeviceOption,
    ExecutorOption,
    JsonOption,
    NameOption,
    PartOption,
    SchedulerOption,
    SplitOption,
    SystemOption,
)  # fmt: skip
from pipeline.usage import Verbs

if TYPE_CHECKING:
    from pipeline.config import Settings
    from stages.names import SplitRef

WITH_PLAN = "With --plan"
app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Offline preprocessing pipeline and feature store for reasoning segmentation.

    --params, --set and --debug may stand before or after the verb.

    Exit codes: 0 done; 1 finished, but more images failed than run.max_failures; 2 usage, configuration or input error;
    4 damaged store; 70 internal error; 75 interrupted, run it again; 130 Ctrl-C.
    """,
)


@app.callback()
def main_options(
    context: typer.Context,
    params: Annotated[Path, typer.Option("--params", help="Another params file.")] = Path("params.yaml"),
    override: Annotated[
        list[str] | None, typer.Option("--set", help="Override a value: --set embed.max_masks=32")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of every verb; they may stand before or after it."""
    context.obj = (params, override or [])
    os.environ["ELISA_DEBUG"] = "1" if debug else os.environ.get("ELISA_DEBUG", "")


def _settings(context: typer.Context, **run: Any) -> Settings:
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


def _asked(settings: Settings, split: str | None, data: list[str] | None) -> tuple[SplitRef, ...]:
    chosen = _splits(settings, split, data)
    return chosen if split else tuple(one for one in settings.evaluated if one in chosen)


def _splits(settings: Settings, split: str | None, data: list[str] | None) -> tuple[SplitRef, ...]:
    return settings.select(split, [name for names in data or () for name in names.split(",")])


@app.command()
def demo(
    context: typer.Context,
    train_models: Annotated[
        bool, typer.Option("--train-models", help="Retrain the demo models (over two hours on 2 cores).")
    ] = False,
    scenes: Annotated[
        int | None, typer.Option("--scenes", min=1, help="Instead: a split 'scenes' of this many other scenes.")
    ] = None,
    mixture: Annotated[
        bool,
        typer.Option("--mixture", help="Instead: scenes in the official formats of LISA's mixture, in data/mixture."),
    ] = False,
    asked: Annotated[
        bool, typer.Option("--questions", help="Instead: scenes to make questions about, in data/questions_demo.")
    ] = False,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="Seed of the first of --scenes.")] = 950_000,
    out: Annotated[Path, typer.Option("--out", help="Root of the data set of --scenes.")] = Path("data/scenes"),
) -> None:
    """Make the demo data set in data/demo; with --train-models also the tiny models. What you put there or changed stays.

    Examples:

    `python cli.py demo`

    `python cli.py demo --scenes 200 --first-seed 950000`

    `python cli.py demo --mixture`

    `python cli.py demo --questions`
    """
    from pipeline.commands.demo import (
        make_demo_asked,
        make_demo_data,
        make_demo_mixture,
        make_demo_scenes,
        train_demo_models,
    )

    if scenes is not None:
        print(make_demo_scenes(scenes, first_seed, out))
    elif mixture:
        print(make_demo_mixture())
    elif asked:
        print(make_demo_asked())
    else:
        print(train_demo_models() if train_models else make_demo_data())


@app.command()
def index(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    holders: Annotated[
        bool, typer.Option("--holders", help="Only data sets that hold their images; others wait for them.")
    ] = False,
    part: PartOption = None,
    executor: ExecutorOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Read the data sets: images, instances, targets. A data set that borrows its images comes after the one that holds them.

    Examples:

    `python cli.py index --split val`

    `python cli.py index --data demo --part 0/4`
    """
    from pipeline.summary import only_holders
    from pipeline.usage import part_of

    settings = _settings(context, executor=executor, scheduler=scheduler)
    chosen = _splits(settings, split, data)
    chosen = only_holders(settings, chosen) if holders else chosen
    _compute_stages(settings, ("index",), chosen, replace=True, part=part_of(part))


@app.command()
def extract(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    stage: Annotated[Optional[str], typer.Option("--stage", help="masks, embed or match; default: all three.")] = None,  # noqa: UP045
    proposer: Annotated[
        list[str] | None, typer.Option("--proposer", help="Only the columns of these proposers, and those of none.")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", help="Only these encoders (with stage embed).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="The first ceil(N / shard_images) whole shards.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Compute shards with failed images again.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also replace finished shards that other parameters made.")
    ] = False,
    part: PartOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed, and what it takes.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what all of it takes on other cards: hours, bytes, requests, money.")
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
            help="So many images, none of which need be here; repeat it for others. Default: those that are indexed.",
            rich_help_panel=WITH_PLAN,
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Of an image, px, once for each --images; default: 640x480.",
            rich_help_panel=WITH_PLAN,
        ),
    ] = None,
    masks: Annotated[
        float | None,
        typer.Option("--masks", min=0, help="Masks in an image, where none are computed.", rich_help_panel=WITH_PLAN),
    ] = None,
    regions: Annotated[
        float | None,
        typer.Option(
            "--regions", min=0, help="Annotated regions of one of --images; default: 0.", rich_help_panel=WITH_PLAN
        ),
    ] = None,
    questions: Annotated[
        float | None,
        typer.Option(
            "--questions", min=0, help="Questions about one of --images; default: 0.", rich_help_panel=WITH_PLAN
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=WITH_PLAN)] = False,
    device: DeviceOption = None,
    executor: ExecutorOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Segment, embed and match: computes just the shards that are missing or stale.

    Finished shards that other parameters made are replaced with --replace only; without it the command says which, and why.

    Examples:

    `python cli.py extract --split val`

    `python cli.py extract --split val --proposer demo_sam`

    `python cli.py extract --split val --stage embed --encoder demo_dinov2`

    `python cli.py extract --split train --limit 100 --executor dask`

    `sbatch --array=0-7 --gres=gpu:1 --wrap 'python cli.py extract --part $SLURM_ARRAY_TASK_ID/8'` shares the shards out over
    eight jobs of Slurm

    `python cli.py extract --split train --limit 1 && python cli.py extract --split train --dry-run` measures a first shard, and
    says what the others will take

    `python cli.py --params params/reasonseg.yaml extract --plan --images 118287 --size 640x480 --gpu rtx-3090 --workers 4` needs no
    images, no weights and no GPU: it says what that many images take with these parameters (docs/scale.md)
    """
    from pipeline.config import InputError
    from pipeline.usage import part_of
    from stages.names import did_you_mean

    settings = _settings(context, device=device, executor=executor, scheduler=scheduler, workers=workers)
    asked = {"--gpu": gpu, "--images": images, "--size": size, "--masks": masks, "--regions": regions}
    asked |= {"--questions": questions, "--json": as_json or None}
    asked = {option: value or None if isinstance(value, list) else value for option, value in asked.items()}
    if plan:
        from pipeline.commands.plan import as_text, plan_command

        others = {"--stage": stage, "--proposer": proposer, "--encoder": encoder, "--limit": limit, "--part": part}
        others |= {"--retry-failed": retry_failed, "--replace": replace, "--dry-run": dry_run}
        if wrong := [option for option, value in others.items() if value]:
            raise InputError(f"--plan is about all images and columns; found {wrong[0]}, expected none next to it")
        found = plan_command(settings, _splits(settings, split, data), asked)
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
            raise InputError(
                f"{option}: {', '.join(unknown)} not in section {section} of the params; expected {', '.join(known) or 'nothing'}"
                f"{did_you_mean(unknown[0], known)}"
            )
    stages = (stage,) if stage else every
    how = {"limit": limit, "retry_failed": retry_failed, "dry_run": dry_run, "replace": replace, "part": part_of(part)}
    chosen = _splits(settings, split, data)
    _compute_stages(settings, stages, chosen, only=encoder or (), proposers=proposer or (), **how)


@app.command()
def normalize(
    context: typer.Context,
    data: DataOption = None,
    stage: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--stage", help="means, or center (with the report); default: both."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be computed.")] = False,
    executor: ExecutorOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Train means (section means), the embeddings of every split minus each of them, and the similarity report.

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
    settings = _settings(context, executor=executor, scheduler=scheduler)
    splits = _splits(settings, None, data)
    with open_executor(settings) as chosen:
        summaries = run_normalize(settings, chosen, (stage,) if stage else STAGES, splits, dry_run)
    raise typer.Exit(finish(settings, summaries, dry_run))


@app.command()
def train(
    context: typer.Context,
    system: SystemOption = None,
    name: NameOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move another run of that name aside; nothing is deleted.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Train from scratch; move any run of that name aside, this one too.")
    ] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Begin with the weights of this finished run (train.start).")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Fine-tune a system on the stored features; goes on where a stopped run was.

    A run has a name: the system's, a key of section runs, or --name. A name that holds another run is refused.

    Examples:

    `python cli.py train --system elisa`

    `python cli.py --set train.seed=1 train --system elisa --name elisa-seed1`

    `python cli.py --set train.epochs=3 train --system lisa --replace`

    `python cli.py train --system lisa --name lisa-ft --from lisa`
    """
    from pipeline.commands.train import train_command
    from pipeline.errors import as_given

    if start is not None:
        params, overrides = context.obj
        context.obj = params, [*overrides, f"train.start={start}"]
    print(as_given(train_command(_settings(context, device=device), system, name, restart, replace, start)))


@app.command()
def evaluate(
    context: typer.Context,
    split: AskedOption = None,
    data: DataOption = None,
    system: SystemOption = None,
    name: NameOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", help="Anyone's: .json or .jsonl with COCO RLE, a folder of PNGs, or our .parquet."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="NAME", help="Keep --predictions under this name, for `runs`, `compare` and `report`."
        ),
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="PNGs of scores: a pixel of at least N is the mask.", metavar="N"),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            help="Ask and score as a published evaluation does: lisa, per_text, hub, llmseg, llmseg40k, refcoco, gres, gsva, "
            "sesame or rris.",
        ),
    ] = None,
    texts: Annotated[
        str | None,
        typer.Option("--texts", help="first or every text of a target; default: as the protocol, else the first."),
    ] = None,
    every_split: Annotated[
        bool,
        typer.Option(
            "--all", help="One table of all splits with questions, each by the protocol that fits its format."
        ),
    ] = False,
    missing: Annotated[
        str, typer.Option("--missing", help="error, or empty: unanswered counts as rejected.")
    ] = "error",
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="generated, or teacher_forced: the answer [SEG]. is in the input; default: as the protocol, else generated.",
        ),
    ] = None,
    setting: Annotated[
        str,
        typer.Option("--setting", help="What it chooses from: proposals, or proposals+gt: annotated instances, too."),
    ] = "proposals",
    with_controls: Annotated[
        bool,
        typer.Option("--controls", help="Next to it, the system on shuffled images and questions, and without either."),
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a system, or a file of predictions, with baselines and the papers' figures.

    Protocols (docs/training.md has what each one fixes): **lisa**, **llmseg** and **hub** are of ReasonSeg's first texts,
    **per_text** of all of them; **llmseg40k** of LLM-Seg40K; **refcoco** of refCOCO's sentences (cIoU, mIoU, P@); **gres** and
    **gsva** of gRefCOCO (N-acc, T-acc); **sesame** and **rris** of sentences with false premises. Of predictions that are not
    asked for here a protocol fixes only how they are scored.

    Examples:

    `python cli.py evaluate --system elisa --split val`

    `python cli.py evaluate --system elisa --name elisa-seed1 --split val --controls`

    `python cli.py evaluate --predictions theirs.jsonl --split val --missing empty`

    `python cli.py evaluate --predictions theirs.jsonl --split val --keep theirs`

    `python cli.py evaluate --predictions probabilities/ --split val --threshold 128`

    `python cli.py evaluate --predictions theirs.jsonl --data refcoco --split val --protocol refcoco`

    `python cli.py evaluate --name lisa_mix --all`
    """
    from pipeline.commands.evaluate import check_options, evaluate_command, keep_report
    from pipeline.commands.evaluate_run import answered, evaluate_all
    from pipeline.commands.train import controls
    from pipeline.config import InputError
    from pipeline.runs import resolve
    from pipeline.usage import asks_a_system, check_all, check_keep, check_setting

    check_setting(setting, predictions, with_controls)
    asked = asks_a_system(system or name, predictions, with_controls or mode not in (None, "generated"), threshold)
    check_options(missing, protocol, threshold, texts)
    check_all(every_split, predictions, with_controls)
    check_keep(keep, predictions)
    settings = _settings(context, device=device)
    run = resolve(settings, system, name) if asked else None
    if run and every_split:
        chosen = _splits(settings, split, data)
        text, found = evaluate_all(settings, run, chosen, mode, setting, protocol, texts)
        print(json.dumps(found, indent=1) if as_json else text)
        return
    splits = _asked(settings, split, data)
    settings.require_questions(*splits)
    if run is None and len(splits) > 1:
        raise InputError(
            f"evaluate: --predictions are of one split, found {', '.join(map(str, splits))}; name one with --data and --split"
        )
    found = []
    for one in splits:
        path = predictions
        if run:
            path = answered(settings, run, one, mode, setting, protocol, texts, with_controls)
        further = controls(settings, run, one) if run and with_controls else []
        assert path is not None
        text, figures = evaluate_command(
            settings, one, path, missing, further, threshold, protocol, texts, keep_as=keep
        )
        if (run or keep) and protocol is None:  # what is kept is of the common figures
            keep_report(settings, text, figures)
        found.append(figures)
        if not as_json:
            print(text)
    if as_json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))


@app.command()
def ask(
    context: typer.Context,
    image: Annotated[
        str,
        typer.Option("--image", help="A stored image as DATASET/SPLIT/IMAGE_ID, or the file of a new picture."),
    ],
    question: Annotated[
        list[str] | None, typer.Option("--question", help="What to ask; repeat it for several questions.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option("--questions", help="A file with a question in each line (UTF-8).")
    ] = None,
    system: SystemOption = None,
    name: NameOption = None,
    phrase: Annotated[
        bool,
        typer.Option("--phrase", help='They are noun phrases ("the red mug"), not sentences; it is never guessed.'),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="PNG file, or of several answers a folder; default: ask/ in run.report_dir."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="With --out: also in place of a file.")] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a trained system about one image: prints each answer and writes a PNG with its masks.

    A stored image is read from the store. Of a new picture, masks and embeddings are computed once and kept in run.cache_dir.
    Where a single run is trained, --system and --name may be left out. docs/asking.md has more, and how to ask from Python.

    Each question is asked by itself. Follow-up questions are not possible: none of the systems here answers in a conversation.

    Examples:

    `python cli.py ask --system elisa --image demo/test/0003 --question "What could one drink from?"`

    `python cli.py ask --system elisa --image photo.jpg --question "What could one drink from?" --out answer.png`

    `python cli.py ask --name lisa --image photo.jpg --questions questions.txt --out answers/ --json`
    """
    from pipeline.commands.ask import ask_command

    settings = _settings(context, device=device)
    text, found = ask_command(settings, system, name, image, question or [], questions, phrase, out, replace)
    print(json.dumps(found, indent=1) if as_json else text)


@app.command()
def runs(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the runs: what is planned, in training, done or out of date, external predictions, and the figures of each.

    Examples:

    `python cli.py runs`

    `python cli.py runs --json`
    """
    from pipeline.commands.runs import as_text, runs_command

    settings = _settings(context)
    found = runs_command(settings)
    print(json.dumps(found, indent=1) if as_json else as_text(settings, found))


@app.command()
def compare(
    context: typer.Context,
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="RUN RUN...", help="Names of runs, or files of predictions; the others are compared with the first."
        ),
    ] = None,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--split", help="Only that split of every data set; default: all that the runs have answered."),
    ] = None,
    data: DataOption = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Score as a published evaluation does; names as for `evaluate`.")
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="PNGs of scores: a pixel of at least N is the mask.", metavar="N"),
    ] = None,
    cases: Annotated[
        int, typer.Option("--cases", min=1, help="How many questions that were won, and lost, are shown.")
    ] = 6,
    page: Annotated[
        Path | None, typer.Option("--page", help="Also write an HTML page with pictures, one file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs, or anyone's predictions, on the questions that all of them have answered.

    Differences have 95 % intervals of a bootstrap over images that is paired: both systems see the same resamples. In what the
    runs differ besides is said above the tables. They have to be evaluated first (`evaluate`); nothing is trained or asked here.

    Examples:

    `python cli.py compare elisa llmseg lisa --split test`

    `python cli.py compare elisa theirs.jsonl --split test --json`

    `python cli.py compare elisa lisa --split test --page compared.html --cases 12`

    """
    from pipeline.commands.compare import compare_command
    from pipeline.commands.compare_page import check_file, write_page
    from pipeline.commands.compare_text import as_json as as_values
    from pipeline.commands.compare_text import as_markdown
    from pipeline.commands.evaluate import check_options
    from pipeline.config import InputError

    check_options("error", protocol, threshold)
    if page is not None:
        check_file("--page", page, (".html", ".htm"))
    settings = _settings(context)
    found = compare_command(settings, names or [], _splits(settings, split, data), protocol, threshold)
    if page is not None and len(found) > 1:
        shared = ", ".join(str(one.split) for one in found)
        raise InputError(
            f"--page: a page is of one split, and these runs share {shared}; name one with --data and --split"
        )
    written = None if page is None else write_page(settings, found[0], cases, page)
    if as_json:
        values = [as_values(one, cases) for one in found]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=1))
    else:
        print("\n\n".join(as_markdown(one, cases) for one in found))
    if written is not None:
        print(written, file=sys.stderr)


@app.command()
def figure(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .png or .pdf.")],
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[RUN...]", help="Names of runs, or files of predictions; none: all that have answered."
        ),
    ] = None,
    split: Annotated[Optional[str], typer.Option("--split", help="The split.")] = None,  # noqa: UP045
    data: DataOption = None,
    images: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--images", help="Images or questions to show: a,b. Default: those in which the runs differ most."
        ),
    ] = None,
    cases: Annotated[int, typer.Option("--cases", min=1, help="How many questions, where --images names none.")] = 6,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="PNGs of scores: a pixel of at least N is the mask.", metavar="N"),
    ] = None,
) -> None:
    """A figure for a paper, PNG or PDF: chosen questions, the ground truth, and what runs, or anyone's predictions, answered.

    A row for each question, a column for each run, and the IoU below each answer. The runs have to be evaluated first
    (`evaluate`). A file that this command did not write is not replaced.

    Examples:

    `python cli.py figure elisa lisa --data demo --split test --images 0003,0007 --out figure.pdf`

    `python cli.py figure --data demo --split test --cases 4 --out figure.png`
    """
    from pipeline.commands.figure import figure_command

    settings = _settings(context)
    chosen = [word for given in images or () for word in given.split(",") if word]
    print(figure_command(settings, names or [], _splits(settings, split, data), out, chosen, cases, threshold))


@app.command()
def report(
    context: typer.Context,
    split: AskedOption = None,
    data: DataOption = None,
    cases: Annotated[int, typer.Option("--cases", min=1, help="How many questions of each system are shown.")] = 6,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write below; default: run.report_dir.")] = None,
) -> None:
    """One HTML page of a split, and its pictures as PNG: masks, answers, IoU, recall of the proposals, training.

    Examples:

    `python cli.py report --split val`

    `python cli.py report --split test --cases 12 --out ~/for-the-meeting`
    """
    from pipeline.commands.report import report_command
    from pipeline.errors import as_given

    settings = _settings(context)
    for one in _asked(settings, split, data):
        print(as_given(report_command(settings, one, cases, out)))


@app.command()
def info(
    context: typer.Context, split: SplitOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """What the store holds, what is missing or stale, and why.

    Example: `python cli.py info --split val`
    """
    from pipeline.commands.info import as_text, describe
    from pipeline.errors import as_given

    settings = _settings(context)
    found = describe(settings, _splits(settings, split, data))
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))


@app.command()
def browse(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8321,
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; one that others reach needs --token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="ELISA_BROWSE_TOKEN", help="Whoever opens the page must know it: /?token=TOKEN."
        ),
    ] = None,
) -> None:
    """Pages on this machine that show the store: pictures, masks, questions, answers of the runs, nearest masks, provenance.

    Masks are found by words, trained runs answer questions about a picture, and runs are compared. Nothing in the store is changed
    and no network is used; Ctrl-C ends it. docs/browsing.md says how to reach it on another machine.

    Examples:

    `python cli.py browse`

    `python cli.py browse --data demo --split val --port 0`

    `ELISA_BROWSE_TOKEN=$(openssl rand -hex 16) python cli.py browse --host 0.0.0.0` takes the token from the environment, which
    other users of the machine cannot see
    """
    from pipeline.commands.browse import browse_command

    names = [name for names in data or () for name in names.split(",")]
    browse_command(_settings(context), split, names, host, port, token)


@app.command("data")
def about_data(
    context: typer.Context,
    name: Annotated[Optional[str], typer.Argument(help="A data set of the params; none: all of them.")] = None,  # noqa: UP045
    unpack: Annotated[
        Path | None,
        typer.Option("--unpack", help="Instead: write the pictures of NAME (format reasonseg_hub) into this folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a data set is, where to get it, its licence, which of its files are here, and its counts next to the published ones.

    It changes nothing, but for --unpack, and works before anything is downloaded.

    Examples:

    `python cli.py data`

    `python cli.py data refcoco`

    `python cli.py --params params/sets/lvis.yaml data lvis`

    `python cli.py --params params/sets/reasonseg_hub.yaml data hub --unpack data/reasonseg_hub/pictures`
    """
    from pipeline.commands.data import as_text, data_command, unpack_command, unpacked_text
    from pipeline.errors import as_given

    settings = _settings(context)
    if unpack is not None:
        found, code = unpack_command(settings, name, unpack)
        print(json.dumps(found, indent=1) if as_json else unpacked_text(settings, str(name), unpack, found))
        raise typer.Exit(code)
    found = data_command(settings, name)
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))


@app.command()
def export(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", help="coco, labelme, png, hf, webdataset, fiftyone or numpy.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write: empty, or not there yet.")],
    split: SplitOption = None,
    data: DataOption = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            "--what",
            help="masks (proposals), instances, targets (questions) or predictions; repeat it, or give a list. Default: the first "
            "three; labelme: targets.",
        ),
    ] = None,
    proposer: Annotated[
        str | None, typer.Option("--proposer", help="Whose masks; default: train.proposer, or the first.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder", help="Also the vectors of this encoder: hf, webdataset, fiftyone and numpy; repeat it."
        ),
    ] = None,
    system: SystemOption = None,
    name: NameOption = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            "--pictures", help="copy, link or none. Default: none for coco, png and numpy, copy for the others."
        ),
    ] = None,
    polygons: Annotated[
        bool, typer.Option("--polygons", help="labelme: polygons instead of exact masks; says what they lose.")
    ] = False,
) -> None:
    """Write one split in a form that other tools read. It goes on where it was stopped; docs/export.md says what each form keeps.

    **coco**: annotations and results for pycocotools; **labelme**: JSON to correct masks by hand; **png**: masks as pictures;
    **hf**: a Parquet data set of the Hugging Face hub; **webdataset**: tar shards;
    **fiftyone**: a data set of FiftyOne; **numpy**: npz files.

    Examples:

    `python cli.py export --to coco --split val --out data/export/coco`

    `python cli.py export --to labelme --split val --what targets --out data/export/labelme`

    `python cli.py export --to webdataset --split val --what masks --encoder demo_alphaclip --out data/export/tars`

    `python cli.py export --to coco --data demo --split test --what targets,predictions --system elisa --out data/export/answers`
    """
    from pipeline.commands.export import export_command
    from pipeline.errors import FAILURES, as_given

    settings = _settings(context)
    text, lost = export_command(
        settings,
        _splits(settings, split, data),
        to,
        out,
        whats=[each for given in what or () for each in given.split(",")],
        proposer=proposer,
        encoders=encoder or (),
        system=system,
        name=name,
        pictures=pictures,
        polygons=polygons,
    )
    print(as_given(text))
    raise typer.Exit(FAILURES if lost > settings.run.max_failures else 0)


@app.command()
def boxes(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="The file to write, in COCO's form.")],
    split: SplitOption = None,
    data: DataOption = None,
    model: Annotated[str, typer.Option("--model", help="A SAM model, e.g. sam_vit_h.")] = "sam_vit_h",
    device: DeviceOption = None,
) -> None:
    """Make masks of boxes by SAM's box prompt, for data sets that have boxes alone (EgoObjects). It goes on where it was stopped.

    Example: `python cli.py boxes --data egoobjects --split train --out data/ego_objects/data/train_masks.json`
    """
    from pipeline.commands.boxes import boxes_command
    from pipeline.config import InputError
    from pipeline.errors import as_given

    settings = _settings(context, device=device)
    splits = _splits(settings, split, data)
    if len(splits) > 1:
        raise InputError(
            f"boxes: expected one split, found {', '.join(map(str, splits))}; name one with --data and --split"
        )
    print(as_given(boxes_command(settings, splits[0], model, out.expanduser())))


@app.command("import")
def import_files(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="JSON, JSONL, HDF5 or .npz; or a folder with one per picture.")],
    name: Annotated[str, typer.Option("--name", help="Of the proposer, or encoder, that it becomes in the params.")],
    split: SplitOption = None,
    data: DataOption = None,
    of: Annotated[
        str | None, typer.Option("--of", help="The proposer whose masks vectors are of, where they come without masks.")
    ] = None,
    stored_order: Annotated[
        bool,
        typer.Option("--stored-order", help="With --of: their order is the store's, not that of the imported file."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Take masks and vectors that another program made, check them against the index, and say what to add to the params.

    Reads SAM's masks as `scripts/amg.py --convert-to-rle` and SA-1B write them, LLM-Seg's masks.json and HDF5, ELISA's JSONL, and
    .npz. Nothing in the store is changed: `extract` takes the masks from the copy that this command keeps. docs/import.md has
    each form, and what is lost.

    Examples:

    `python cli.py import amg_masks/ --name mine --split val`

    `python cli.py import coco_split0.h5 coco_split1.h5 --name llmseg`

    `python cli.py import train_TEST.jsonl --name elisa2024 --split train`

    `python cli.py import vectors.npz --name my_encoder --of demo_sam --stored-order`
    """
    from pipeline.commands.importing import as_text, import_command
    from pipeline.errors import as_given

    settings = _settings(context)
    found, code = import_command(settings, _splits(settings, split, data), files, name, of, stored_order)
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))
    raise typer.Exit(code)


@app.command()
def questions(
    context: typer.Context,
    name: Annotated[Optional[str], typer.Argument(help="A key of section questions; default: the only one.")] = None,  # noqa: UP045
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many new requests.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked: requests, tokens, cost. Nothing is sent.")
    ] = False,
    show: Annotated[int, typer.Option("--show", min=0, help="With --dry-run: print the first N requests.")] = 0,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also write pages into this folder, on which a person decides.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask those requests again that an endpoint refused earlier.")
    ] = False,
    skip_failing: Annotated[
        bool,
        typer.Option(
            "--skip-failing", help="Leave out a request whose every attempt fails, also where no other is answered."
        ),
    ] = False,
) -> None:
    """Make questions about annotated pictures with language models, and index them as a data set. It goes on where it was stopped.

    Section questions of the params says of which splits, by which models, and at which cost at most. An answer that was received
    is never asked for again. docs/questions.md explains every step.

    Examples:

    `python cli.py --params params/questions.yaml questions --dry-run --show 2`

    `python cli.py --params params/questions.yaml questions lvis_reasoning --limit 50`

    `python cli.py --params params/questions.yaml questions lvis_reasoning --sheet data/sheet`
    """
    from pipeline.commands.questions import plan_command, questions_command, set_of
    from pipeline.config import InputError
    from pipeline.errors import as_given

    if show and not dry_run:
        raise InputError("--show prints requests with --dry-run alone, found no --dry-run; without it they are sent")
    if dry_run and (limit is not None or sheet is not None or again or skip_failing):
        raise InputError("--dry-run sends nothing, expected no other option than --show next to it")
    settings = _settings(context)
    chosen = set_of(settings, name)
    if dry_run:
        print(plan_command(settings, chosen, show))
        return
    said, whole = questions_command(settings, chosen, limit, sheet, again, skip_failing)
    print(as_given(said))
    if whole:
        _compute_stages(settings, ("index",), _splits(settings, None, [chosen]), replace=True)


@app.command()
def leaks(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    run: Annotated[str | None, typer.Option("--run", help="Also what this run leaves out of its training.")] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Compare decoded pixels, too; reads every picture once.")
    ] = False,
    alike: Annotated[
        bool, typer.Option("--alike", help="Also list pictures of different sets that look alike, to be looked at.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Which splits share pictures, so that nothing is trained on what it is evaluated on.

    Examples:

    `python cli.py leaks`

    `python cli.py leaks --pixels --alike`

    `python cli.py leaks --run lisa`
    """
    from pipeline.commands.leaks import as_text, leaks_command
    from pipeline.errors import as_given

    settings = _settings(context)
    found = leaks_command(settings, _splits(settings, split, data), run, pixels, alike)
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))


@app.command()
def params(
    context: typer.Context,
    doc: Annotated[bool, typer.Option("--doc", help="Every parameter with its default and what it means.")] = False,
) -> None:
    """Print the parameters in full, with all defaults, as a params file; --set and --params are heeded.

    Examples:

    `python cli.py params`

    `python cli.py params --doc`
    """
    from pipeline.commands.params import documentation, settings_text

    print(documentation() if doc else settings_text(_settings(context)).rstrip())


@app.command()
def verify(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Digest every byte.")] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="A column that is not done is an error too (exit 4).")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Digest every byte, remove damaged shards and compute them again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that every byte of the store is what was committed; of borrowed images also at the data set that holds them.

    Examples:

    `python cli.py verify --deep --complete`

    `python cli.py verify --split val --repair`
    """
    from pipeline.commands.verify import verify_command
    from pipeline.errors import as_given

    settings = _settings(context)
    code, text = verify_command(settings, _splits(settings, split, data), deep, complete, repair, as_json)
    print(text if as_json else as_given(text))
    raise typer.Exit(code)


@app.command()
def weights(
    context: typer.Context,
    names: Annotated[Optional[list[str]], typer.Argument(help="Checkpoints; none: list them.")] = None,  # noqa: UP045
    source: Annotated[Optional[Path], typer.Option("--from", help="Adopt this file as NAME.")] = None,  # noqa: UP045
    replace: Annotated[bool, typer.Option("--replace", help="With --from: also in place of an adopted file.")] = False,
) -> None:
    """Fetch official checkpoints and check their sha256, or adopt a file you fetched.

    Examples:

    `python cli.py weights` lists what is known, which of it the params need, and what is missing

    `python cli.py weights sam_vit_h`

    `python cli.py weights alphaclip_vit_b16 --from ~/Downloads/clip_b16_grit1m_fultune_8xe.pth`
    """
    from pipeline.commands.weights import weights_command

    print(weights_command(_settings(context), names or [], source, replace))


@app.command("completion")
def print_completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the lines that teach your shell to complete `python cli.py`: verbs, options, and names from the params file.

    Examples:

    `python cli.py completion bash >> ~/.bashrc`

    `python cli.py completion zsh >> ~/.zshrc`

    `python cli.py completion fish > ~/.config/fish/conf.d/elisa_store.fish`
    """
    print(completion.script(shell), end="")


def _compute_stages(settings: Settings, stages: tuple[str, ...], splits: tuple[SplitRef, ...], **options: Any) -> None:
    from pipeline.compute import compute_stages
    from pipeline.executors import open_executor
    from pipeline.summary import finish

    with open_executor(settings) as executor:
        summaries = compute_stages(settings, stages, splits, executor, **options)
    raise typer.Exit(finish(settings, summaries, dry_run=bool(options.get("dry_run"))))


def main() -> int:
    """Run the command line; turn errors into messages and exit codes."""
    if completion.VARIABLE in os.environ:
        completion.answer(app)
    from pipeline.errors import CTRL_C, Terminated, deliver_again_what_is_lost, exit_code_of, remember
    from stages.device import start_command

    remember(None)
    signal.signal(signal.SIGTERM, _terminate)
    deliver_again_what_is_lost()
    start_command()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        code = int(app(standalone_mode=False) or 0)
        if code == CTRL_C:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return code
    except (KeyboardInterrupt, Terminated, Exception) as error:
        code, message = exit_code_of(error)
        if os.environ.get("ELISA_DEBUG"):
            raise
        print(message, file=sys.stderr)
        return code


def _terminate(number: int, frame: Any) -> None:
    from pipeline.errors import Terminated

    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
