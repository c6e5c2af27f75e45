"""Options that several verbs of the command line have."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

SplitOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--split", help="Only this split of every data set; default: all splits."),
]
AskedOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--split", help="This split of every data set; default: evaluate.splits, or the last split of each data set."
    ),
]
DataOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--data", help="Only this data set; repeat it, or give a list: a,b. Default: all in the params."),
]
PartOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--part", metavar="I/N", help="Only this part of all shards, 0/N to N-1/N; parts may run on several machines."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DeviceOption = Annotated[Optional[str], typer.Option("--device", help="auto, cpu or cuda; default: run.device.")]  # noqa: UP045
ExecutorOption = Annotated[Optional[str], typer.Option("--executor", help="local or dask; default: run.executor.")]  # noqa: UP045
SystemOption = Annotated[
    str | None,
    typer.Option("--system", help="A system, such as lisa (stages/train/systems.py)."),
]
NameOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--name", help="Name of the run: a key of section runs, or any other; default: the system's."),
]
SchedulerOption = Annotated[str | None, typer.Option("--scheduler", help="Dask scheduler, e.g. tcp://127.0.0.1:8786.")]
