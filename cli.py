"""Command line of the ELISA feature store: its verbs, in the order in which --help lists them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import completion
from pipeline.usage import Verbs
from pipeline.verbs import answers, computing, files, looking, training

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
    """Options that every verb takes; they may stand before or after the verb."""
    context.obj = (params, override or [])
    os.environ["ELISA_DEBUG"] = "1" if debug else os.environ.get("ELISA_DEBUG", "")


for verb in (
    looking.demo,
    computing.index,
    computing.extract,
    computing.normalize,
    training.train,
    training.evaluate,
    answers.ask,
    answers.runs,
    answers.compare,
    answers.figure,
    answers.report,
    looking.info,
    looking.browse,
    looking.data,
    files.export,
    files.boxes,
    files.import_,
    training.questions,
    training.leaks,
    looking.params,
    looking.verify,
    looking.weights,
    looking.completion,
):
    app.command(verb.__name__.rstrip("_"))(verb)


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
