"""The verbs that make questions, train on them and judge what was learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.options import (
    AskedOption,
    DataOption,
    DeviceOption,
    JsonOption,
    NameOption,
    SplitOption,
    SystemOption,
)  # fmt: skip
from pipeline.verbs.given import asked_splits, chosen_splits, compute, settings_of

if TYPE_CHECKING:
    pass


def train(
    context: typer.Context,
    system: SystemOption = None,
    name: NameOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Move another run that has this name aside; nothing is deleted.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Train from scratch; move any run that has this name aside, even the same run."),
    ] = False,
    start: Annotated[
        str | None, typer.Option("--from", help="Begin with the weights of this finished run (train.start).")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Fine-tune a system on the stored features; a stopped run is continued.

    The name of a run is that of its system, a key of section runs, or --name. A name that another run already has is refused.

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
    print(as_given(train_command(settings_of(context, device=device), system, name, restart, replace, start)))


def evaluate(
    context: typer.Context,
    split: AskedOption = None,
    data: DataOption = None,
    system: SystemOption = None,
    name: NameOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            help="Predictions of any system: .json or .jsonl with COCO RLE, a folder of PNGs, or .parquet as evaluate writes it.",
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
        typer.Option("--threshold", help="For PNGs of scores: pixels of at least N are the mask.", metavar="N"),
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
        typer.Option(
            "--texts", help="first or every: which texts of a target to ask; default: as the protocol says, else first."
        ),
    ] = None,
    every_split: Annotated[
        bool,
        typer.Option(
            "--all",
            help="One table of all splits with questions, each asked and scored by the protocol that fits its format.",
        ),
    ] = False,
    missing: Annotated[
        str,
        typer.Option(
            "--missing", help="Questions without a prediction: error, or empty, which counts them as rejected."
        ),
    ] = "error",
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="generated, or teacher_forced (the input holds the answer [SEG].); default: as the protocol says, else generated.",
        ),
    ] = None,
    setting: Annotated[
        str,
        typer.Option(
            "--setting", help="What the system chooses from: proposals, or proposals+gt (annotated instances, too)."
        ),
    ] = "proposals",
    with_controls: Annotated[
        bool,
        typer.Option("--controls", help="Also score the system with shuffled images or questions, and without either."),
    ] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a system, or a file of predictions, with baselines and the papers' figures.

    Protocols (docs/training.md says what each one fixes): **lisa**, **llmseg** and **hub** ask the first text of each target of
    ReasonSeg, **per_text** asks all of them; **llmseg40k** is for LLM-Seg40K; **refcoco** for refCOCO's sentences
    (cIoU, mIoU, P@); **gres** and **gsva** for gRefCOCO (N-acc, T-acc); **sesame** and **rris** for sentences with false
    premises. For predictions of other programs, a protocol fixes only how they are scored.

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
    settings = settings_of(context, device=device)
    run = resolve(settings, system, name) if asked else None
    if run and every_split:
        chosen = chosen_splits(settings, split, data)
        text, found = evaluate_all(settings, run, chosen, mode, setting, protocol, texts)
        print(json.dumps(found, indent=1) if as_json else text)
        return
    splits = asked_splits(settings, split, data)
    settings.require_questions(*splits)
    if run is None and len(splits) > 1:
        raise InputError(
            f"evaluate: --predictions are of one split, found {', '.join(map(str, splits))}; name one, such as "
            f"{settings.options(splits[0])}"
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


def questions(
    context: typer.Context,
    name: Annotated[Optional[str], typer.Argument(help="A key of section questions; default: the only one.")] = None,  # noqa: UP045
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many new requests.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked: requests, tokens, cost. Nothing is sent.")
    ] = False,
    show: Annotated[int, typer.Option("--show", min=0, help="With --dry-run: print the first N requests.")] = 0,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", help="Also write pages into this folder, on which a person keeps or rejects each question."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Resend requests that an endpoint refused earlier.")] = False,
    skip_failing: Annotated[
        bool,
        typer.Option(
            "--skip-failing", help="Leave out requests that fail every time, even when no request is answered."
        ),
    ] = False,
) -> None:
    """Make questions about annotated pictures with language models; index them as a data set. If stopped, run it again to resume.

    Section questions of the params names the splits, the models and the highest cost. A request that was answered
    is never sent again. docs/questions.md explains every step.

    Examples:

    `python cli.py --params params/questions.yaml questions --dry-run --show 2`

    `python cli.py --params params/questions.yaml questions lvis_reasoning --limit 50`

    `python cli.py --params params/questions.yaml questions lvis_reasoning --sheet data/sheet`
    """
    from pipeline.commands.questions import plan_command, questions_command, set_of
    from pipeline.config import InputError
    from pipeline.errors import as_given

    if show and not dry_run:
        raise InputError("--show prints requests only with --dry-run, found no --dry-run; without it they are sent")
    if dry_run and (limit is not None or sheet is not None or again or skip_failing):
        raise InputError("--dry-run sends nothing, expected no other option than --show next to it")
    settings = settings_of(context)
    chosen = set_of(settings, name)
    if dry_run:
        print(plan_command(settings, chosen, show))
        return
    said, whole = questions_command(settings, chosen, limit, sheet, again, skip_failing)
    print(as_given(said))
    if whole:
        compute(settings, ("index",), chosen_splits(settings, None, [chosen]), replace=True)


def leaks(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Also list what this run leaves out of its training.")
    ] = None,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Compare decoded pixels, too; reads every picture once.")
    ] = False,
    alike: Annotated[
        bool, typer.Option("--alike", help="Also list pictures of different sets that look alike, for you to check.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List splits that share pictures, so that no run is trained on what it is evaluated on.

    Examples:

    `python cli.py leaks`

    `python cli.py leaks --pixels --alike`

    `python cli.py leaks --run lisa`
    """
    from pipeline.commands.leaks import as_text, leaks_command
    from pipeline.errors import as_given

    settings = settings_of(context)
    found = leaks_command(settings, chosen_splits(settings, split, data), run, pixels, alike)
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))
