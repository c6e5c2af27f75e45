"""What runs on a Dask worker, and what comes back from it.

Task and result travel as bytes, and the function that opens them travels by value: a scheduler or a worker that cannot import
the project still runs it, and says so, where Dask would close the worker without a message.
"""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable
from typing import Any

from pipeline.errors import lost_card

DONE, FAILED, UNLOADABLE, LOST_CARD = "done", "failed", "unloadable", "lost card"
"""Kinds of answers: the value is a result, an exception, the reason why the worker could not load the task, or the worker's address
and what CUDA says of its card, which that process cannot use any more."""
KINDS = (DONE, FAILED, UNLOADABLE, LOST_CARD)


def runner() -> Callable[[bytes], bytes]:
    """The function that workers call with a pickled (function, task). It names nothing of this module: it is sent by value."""

    def run(payload: bytes) -> bytes:
        import os
        import pickle
        import socket

        try:
            function, task = pickle.loads(payload)  # noqa: S301 (Dask runs whatever it is sent)
        except Exception as error:  # noqa: BLE001 (it is told to whoever sent the task)
            where = f"in {os.path.realpath('.')} on {socket.gethostname()}"
            return pickle.dumps(("unloadable", f"{type(error).__name__}: {error} ({where})"))
        from pipeline.dask.remote import answer

        return answer(function, task)

    return run


def in_a_thread() -> Callable[[bytes], Awaitable[bytes]]:
    """:func:`runner`'s function, next to a worker's own work: it may take minutes, and the worker goes on answering meanwhile."""
    call = runner()

    async def run(payload: bytes) -> bytes:
        import asyncio

        return await asyncio.to_thread(call, payload)

    return run


def pack(function: Callable[[Any], Any], task: Any) -> bytes:
    """A task for :func:`runner`'s function."""
    return pickle.dumps((function, task))


def answer(function: Callable[[Any], Any], task: Any) -> bytes:
    """Run a task; its result, or its error, as bytes."""
    try:
        return pickle.dumps((DONE, function(task)))
    except Exception as error:  # noqa: BLE001 (raised again where the task came from)
        if said := lost_card(error):
            from distributed import get_worker

            return pickle.dumps((LOST_CARD, (get_worker().address, said)))
        return pickle.dumps((FAILED, _that_travels(error)))


def unpack(packed: object) -> tuple[str, Any]:
    """Kind and value of what came back.

    Raises:
        TypeError: it is not what :func:`answer` gives.
    """
    found = pickle.loads(packed) if isinstance(packed, bytes) else packed  # noqa: S301 (from our own workers)
    if not isinstance(found, tuple) or len(found) != 2 or found[0] not in KINDS:
        raise TypeError(f"a Dask worker answered {found!r:.200}, which is not the result of a task")
    return found


def _that_travels(error: Exception) -> Exception:
    """The error, or where it cannot be pickled and read again, one with its name and its words."""
    import traceback

    error.add_note("On the worker:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:  # noqa: BLE001 (whatever its __init__ raises)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
