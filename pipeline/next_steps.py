"""What to type after ``make repro``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

_PHOTOGRAPH, _STORED = "tests/data/photos/val/coffee.jpg", "demo/test/0003"
_QUESTION = "What could one drink from?"


def next_steps(params: Mapping[str, Any], demo: bool, trained: bool) -> str:
    """Commands that make sense now, each below a line that says what it is for.

    Args:
        params: the params file's sections.
        demo: they are the demo's, whose pictures are known; for others, the example asks about a photograph in the repository.
        trained: the runs of section ``runs`` are trained and evaluated (``make repro-all``); else only the store is done.
    """
    runs = list(params.get("runs") or ())
    run = ("--name", runs[0]) if runs else ("--system", "elisa")
    steps = [] if "VIRTUAL_ENV" in os.environ else [("once in every terminal", "source .venv/bin/activate")]
    steps.append(("pictures, masks and nearest masks in a browser", _command("browse")))
    if not trained:
        steps.append(("train a system on the store", _command("train", *run)))
    ask = _command("ask", *run, "--image", _STORED if demo else _PHOTOGRAPH, "--question", _QUESTION)
    steps.append(("ask it about a stored image, or with --image FILE about any picture", ask))
    if not trained:
        steps.append(("train, evaluate and report all that section runs of the params names", "make repro-all"))
    elif len(runs) > 1:
        steps.append(("what each of them won and lost", _command("compare", *runs)))
    steps.append(("all verbs; docs/first_hour.md goes through the first ones", _command("--help")))
    report = (params.get("run") or {}).get("report_dir", "data/report")
    done = (
        f"Pages to open in a browser: {report}/*/*.html"
        if trained
        else f"The store: {params.get('store', 'data/store')}"
    )
    return "\n".join([done, "Next:", *(f"  # {why}\n  {command}" for why, command in steps)])


def _command(*words: str) -> str:
    return shlex.join(("python", "cli.py", *words))
