"""Runs ``ask_all`` in children that are killed at a chosen point of their writing; test_kills.py starts it as a process.

It reads one JSON object per line, ``{"folder", "model", "texts", "point"}``, and answers each with the status that the child ended
with; the first one has no child.
A point n counts writes and syncs: the child kills itself (SIGKILL) at the nth, a write being half done then. 0: never.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.questions import batch, endpoint
from stages.questions.journal import open_journal
from stages.questions.params import ModelParams
from tests.stages.questions.asked import request_of


def run(order: dict[str, Any]) -> int:
    """Fork a child that asks, and give the status that it ended with, as os.waitpid has it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    status = 1
    try:
        die_at(order["point"])
        ask(order)
        status = 0
    finally:
        os._exit(status)


def ask(order: dict[str, Any]) -> None:
    """Ask what an order says."""
    with open_journal(Path(order["folder"])) as journal:
        endpoint.ask_all(journal, ModelParams(**order["model"]), [request_of(text) for text in order["texts"]])


def die_at(point: int) -> None:
    """Make the nth write or sync of this process its end."""
    left = point

    def counted(call: Callable[..., Any], half: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                half(*arguments)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return wrapped

    pwrite, fsync = os.pwrite, os.fsync
    os.pwrite = counted(pwrite, lambda descriptor, data, offset: pwrite(descriptor, data[: len(data) // 2], offset))
    os.fsync = counted(fsync, lambda descriptor: None)


if __name__ == "__main__":
    endpoint.FIRST_WAIT_S = batch.POLL_S = 0.01
    ssl.SSLContext.load_verify_locations = lambda *_, **__: None  # 50 ms for each client; the server has no TLS
    ask(json.loads(sys.stdin.readline()))  # what the client loads at its first request is loaded once, for all children
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
