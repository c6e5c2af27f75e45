"""The verbs about trained systems: what they answer, and which of them is better."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.options import (
    AskedOption,
    DataOption,
    DeviceOption,
    JsonOption,
    NameOption,
    SystemOption,
)  # fmt: skip
from pipeline.verbs.given import asked_splits, chosen_splits, settings_of

if TYPE_CHECKING:
    pass


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
        typer.Option(
            "--phrase",
            help='The questions are noun phrases ("the red mug"), not sentences; without it, they count as sentences.',
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="PNG file, or a folder for several answers; default: ask/ in run.report_dir."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="With --out: replace a file that exists.")] = False,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask a trained system about one image: prints each answer and writes a PNG with its masks.

    A stored image is read from the store. For a new picture, masks and embeddings are computed once and kept in run.cache_dir.
    Where a single run is trained, --system and --name may be left out. docs/asking.md has more, and how to ask from Python.

    Each question is asked by itself. Follow-up questions are not possible: the systems cannot hold a conversation.

    Examples:

    `python cli.py ask --system elisa --image demo/test/0003 --question "What could one drink from?"`

    `python cli.py ask --system elisa --image photo.jpg --question "What could one drink from?" --out answer.png`

    `python cli.py ask --name lisa --image photo.jpg --questions questions.txt --out answers/ --json`
    """
    from pipeline.commands.ask import ask_command

    settings = settings_of(context, device=device)
    text, found = ask_command(settings, system, name, image, question or [], questions, phrase, out, replace)
    print(json.dumps(found, indent=1) if as_json else text)


def runs(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the runs: what is planned, in training, done or out of date, external predictions, and the figures of each.

    Examples:

    `python cli.py runs`

    `python cli.py runs --json`
    """
    from pipeline.commands.runs import as_text, runs_command

    settings = settings_of(context)
    found = runs_command(settings)
    print(json.dumps(found, indent=1) if as_json else as_text(settings, found))


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
        typer.Option("--split", help="Only this split of every data set; default: all that the runs have answered."),
    ] = None,
    data: DataOption = None,
    protocol: Annotated[
        str | None, typer.Option("--protocol", help="Score as a published evaluation does; names as for `evaluate`.")
    ] = None,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="For PNGs of scores: pixels of at least N are the mask.", metavar="N"),
    ] = None,
    cases: Annotated[
        int, typer.Option("--cases", min=1, help="How many won questions, and how many lost ones, are shown.")
    ] = 6,
    page: Annotated[
        Path | None, typer.Option("--page", help="Also write an HTML page with pictures, one file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs, or anyone's predictions, on the questions that all of them have answered.

    Differences have 95 % intervals from a paired bootstrap over images: both systems see the same resamples. What else
    differs between the runs, such as their training data, is named above the tables. Runs have to be evaluated first
    (`evaluate`); nothing is trained or asked here.

    Examples:

    `python cli.py compare elisa llmseg lisa --split test`

    `python cli.py compare elisa theirs.jsonl --data demo --split test --json`

    `python cli.py compare elisa lisa --data demo --split test --page compared.html --cases 12`

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
    settings = settings_of(context)
    found = compare_command(settings, names or [], chosen_splits(settings, split, data), protocol, threshold)
    if page is not None and len(found) > 1:
        shared = ", ".join(str(one.split) for one in found)
        raise InputError(
            f"--page: a page is of one split, and these runs share {shared}; name one, such as "
            f"{settings.options(found[0].split)}"
        )
    written = None if page is None else write_page(settings, found[0], cases, page)
    if as_json:
        values = [as_values(one, cases) for one in found]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=1))
    else:
        print("\n\n".join(as_markdown(one, cases) for one in found))
    if written is not None:
        print(written, file=sys.stderr)


def figure(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="The file to write: .png or .pdf.")],
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[RUN...]", help="Names of runs, or files of predictions; default: all runs that have answered."
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
    cases: Annotated[int, typer.Option("--cases", min=1, help="How many questions to show, without --images.")] = 6,
    threshold: Annotated[
        int | None,
        typer.Option("--threshold", help="For PNGs of scores: pixels of at least N are the mask.", metavar="N"),
    ] = None,
) -> None:
    """Draw a figure for a paper, PNG or PDF: chosen questions, the ground truth, and the answers of runs or anyone's predictions.

    A row for each question, a column for each run, and the IoU below each answer. The runs have to be evaluated first
    (`evaluate`). A file that this command did not write is not replaced.

    Examples:

    `python cli.py figure elisa lisa --data demo --split test --images 0003,0007 --out figure.pdf`

    `python cli.py figure --data demo --split test --cases 4 --out figure.png`
    """
    from pipeline.commands.figure import figure_command

    settings = settings_of(context)
    chosen = [word for given in images or () for word in given.split(",") if word]
    print(figure_command(settings, names or [], chosen_splits(settings, split, data), out, chosen, cases, threshold))


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

    settings = settings_of(context)
    for one in asked_splits(settings, split, data):
        print(as_given(report_command(settings, one, cases, out)))
