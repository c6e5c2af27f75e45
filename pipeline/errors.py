"""Which exit code and which words an error gets."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.exceptions import TyperException

from store.addresses import as_address

if TYPE_CHECKING:
    from pipeline.config import Settings
    from store.errors import StoreError

_STANDING = {errno.EROFS, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}
"""Errors that stay until a person changes the path, or what is mounted there: running again does not help."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
DONE, FAILURES, INPUT, DAMAGED, INTERNAL, INTERRUPTED, CTRL_C = 0, 1, 2, 4, 70, 75, 130
"""Exit codes of the command line."""
_AGAIN = "what was committed is kept; run the same command again to go on"


_given: dict[str, Any] = {}
"""The settings of this command, and its options before the verb."""


def remember(settings: Settings | None, options: Sequence[str] = ()) -> None:
    """Keep what messages need to name a command that works: the settings, and the options that were given before the verb."""
    _given.update(settings=settings, options=tuple(options))


def as_given(text: str) -> str:
    """A message; if it names a command and options were given before the verb, a line is added that says where they go in it."""
    options = _given.get("options", ())
    if not options or not re.search(r"python cli\.py (?!--)", text):  # some name the options themselves
        return text
    return f"{text}\n(in the commands to type, these go right after cli.py: {shlex.join(options)})"


class Terminated(BaseException):
    """SIGTERM arrived, e.g. from a batch system that wants its machine back."""


def deliver_again_what_is_lost() -> None:
    """Send an interruption again if it came during a destructor: Python drops what is raised there, and the work would go on."""
    before = sys.unraisablehook
    if before is _given.get("hook"):
        return

    def hook(lost: Any) -> None:
        number = _SIGNALS.get(lost.exc_type)
        if number is None:
            before(lost)
        else:  # a moment later: now it would be raised in this hook, and be lost again
            threading.Timer(_SOON_S, os.kill, (os.getpid(), number)).start()

    sys.unraisablehook = _given["hook"] = hook


_SIGNALS = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
_SOON_S = 0.01


class StoppedError(Exception):
    """A command was interrupted and says itself what is kept. ``code``: its exit code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class WorkersLostError(Exception):
    """Dask's scheduler or workers are gone, or there were none in time; what they committed is kept."""


def lost_card(error: BaseException | None) -> str | None:
    """What CUDA says of a card that this process cannot use any more: an illegal access, ECC, fallen off the bus (NVIDIA's Xid).

    Whatever else this process asks of the card fails from then on. None for any other error, such as running out of memory.
    """
    while error is not None:
        text = str(error)
        ours = type(error).__name__ == "AcceleratorError" or text.startswith(_OF_CUDA)
        if isinstance(error, RuntimeError) and ours and not any(word in text for word in _NOT_THE_CARD):
            return text.strip().partition("\n")[0]
        error = error.__cause__ or error.__context__
    return None


_OF_CUDA = ("CUDA error", "CUDA driver error", "cuDNN error")
_NOT_THE_CARD = ("out of memory", "ALLOC_FAILED", "no kernel image", "invalid device ordinal")


def exit_code_of(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error that reached the command line."""
    code, message = _code_of(error)
    return code, as_given(as_address(message))


def _code_of(error: BaseException) -> tuple[int, str]:
    # Imported when something failed, so that --help loads no data set's loader.
    from pipeline.config import InputError
    from stages.checkpoints import WeightsError
    from stages.datasets.base import DatasetError
    from stages.questions.errors import AskingError
    from store.errors import ChangedError, ConflictError, DamagedStoreError, StoreError

    if isinstance(error, StoppedError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return CTRL_C, f"stopped by Ctrl-C: {_AGAIN}"
    if isinstance(error, Terminated):
        return INTERRUPTED, f"stopped by SIGTERM: {_AGAIN}"
    if isinstance(error, TyperException):
        from pipeline.mistyped import told

        found = told(error, sys.argv[1:])
        return INPUT, (
            f"error: {found}\n" if found else ""
        ) + "(python cli.py --help shows the verbs and their options)"
    if isinstance(error, DamagedStoreError):
        return DAMAGED, f"damaged store: {error}{_advice(error)}"
    if isinstance(error, ConflictError):
        return INTERRUPTED, f"conflict: {error}"
    if isinstance(error, ChangedError):
        return INTERRUPTED, f"changed: {error}; {_AGAIN}"
    if isinstance(error, StoreError):
        return INPUT, f"error: {error}{_advice(error)}"
    if isinstance(error, InputError | WeightsError | DatasetError | AskingError):
        return INPUT, f"error: {error}"
    if isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return INPUT, f"error: {_of_a_file(error)}"
    if isinstance(error, OSError) and error.errno in _STANDING:
        return INPUT, f"error: {_of_a_file(error)}"
    if isinstance(error, WorkersLostError):
        return INTERRUPTED, f"no workers: {error}; {_AGAIN}"
    name = type(error).__name__
    if isinstance(error, MemoryError) or name in ("OutOfMemoryError", "KilledWorker"):
        return INTERRUPTED, (
            f"out of memory, or a worker was lost: {name}: {error}; {_AGAIN}, with fewer at a time: "
            "--set run.points_per_batch=1 --set run.masks_per_batch=1 --set run.images_per_batch=1"
        )
    if said := lost_card(error):
        return INTERRUPTED, (
            f"the GPU failed: {said}; {_AGAIN}. A new process may be able to use it again; "
            "nvidia-smi, and Xid in the kernel's log (dmesg), say what happened"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        return INTERRUPTED, f"the disk is full: {_of_a_file(error)}; free some space; {_AGAIN}"
    if isinstance(error, OSError):
        return INTERRUPTED, f"input or output failed: {_of_a_file(error)}; {_AGAIN}"
    return INTERNAL, f"internal error: {name}: {error}; run again with --debug for the traceback"


def _of_a_file(error: OSError) -> str:
    """An error of the system: the path, and what is wrong with it in words."""
    if error.errno is None or error.strerror is None:
        return str(error)
    paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
    expected = _EXPECTED.get(error.errno, "")
    return f"{' and '.join(paths)}: {error.strerror}{expected}" if paths else f"{error.strerror}{expected}"


_EXPECTED = {
    errno.ENOTDIR: ", expected a folder (something in this path is a file)",
    errno.EISDIR: ", expected a file",
    errno.ENOENT: ", expected a file or a folder",
}
"""What is expected, which the system's message does not say."""


def _advice(error: StoreError) -> str:
    """What to type, for errors that carry their place; empty where the settings are not known or are wrong themselves."""
    from pipeline.advice import of_error
    from pipeline.config import InputError
    from stages.checkpoints import WeightsError
    from store.errors import StoreError

    settings = _given.get("settings")
    try:
        return "" if settings is None else of_error(settings, error)
    except (StoreError, InputError, WeightsError, OSError):  # the error itself is what has to be said
        return ""
