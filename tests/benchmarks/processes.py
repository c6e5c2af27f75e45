"""Runs cells in processes of their own, on the same two cores, without network access.

A cell is forked off a process that has imported numpy and torch and nothing else of what is measured, so that an import of torch
is not paid hundreds of times. Every peer is imported again in every cell.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

SILENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "LITDATA_DISABLE_VERSION_CHECK": "1",
    "MAX_WAIT_TIME": "10",  # LitData's, for a chunk that never comes
    "OMP_NUM_THREADS": "1",
    "PYTHONUTF8": "1",
}
_PARENT_DEATH_SIGNAL = 1
"""``PR_SET_PDEATHSIG`` of Linux."""


def cell(do: Callable[..., Any], cores: list[int], timeout_s: float = 300, **task: Any) -> dict[str, Any]:
    """The result of ``do(**task)`` in a new process; ``{"failed": why}`` when it raises, dies, or does not answer in time."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    # KeyboardInterrupt in what Python does around a fork would be printed and forgotten
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    child = os.fork()
    if not child:
        os.close(reading)
        _answer(do, cores, task, writing, mask)
    os.close(writing)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        text = _all_of(reading, time.monotonic() + timeout_s)
    except TimeoutError:
        return {"failed": f"no answer after {timeout_s:.0f} s"}
    finally:
        os.close(reading)
        _end(child)
    found: dict[str, Any] = json.loads(text) if text else {"failed": "the process died"}
    return found


def _answer(do: Callable[..., Any], cores: list[int], task: dict[str, Any], writing: int, mask: set[Any]) -> None:
    """The life of a cell: never returns, and waits for no thread or worker of a peer."""
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)  # the waiting process may be killed
        os.sched_setaffinity(0, cores)
        os.environ.update(SILENT)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            answer = do(**task)
        except BaseException as error:  # noqa: BLE001 - a peer may raise anything, and the table says what
            where = traceback.extract_tb(error.__traceback__)[-1]
            answer = {"failed": f"{type(error).__name__}: {error} ({where.name})"[:300]}
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writing, data) :]
    finally:
        os._exit(0)


def _all_of(descriptor: int, until: float) -> str:
    """Everything that comes until the other end is closed, or the answer is whole; raises TimeoutError."""
    parts = []
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(descriptor, 1 << 20)
        parts.append(part)
        if not part or part.endswith(b"}"):
            text = b"".join(parts).decode()
            if not part or _is_whole(text):
                return text


def _is_whole(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _end(child: int) -> None:
    """End the cell and the workers it started."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
