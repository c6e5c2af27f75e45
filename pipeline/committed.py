"""Whether a shard that another process says it computed is in this process's store."""

from __future__ import annotations

import contextlib
import threading
import time

from pipeline.config import InputError, Settings
from pipeline.shard import ShardResult, ShardTask
from pipeline.upstream import place_of
from store.errors import ConflictError
from store.format.layout import column_dir
from store.format.shard import read_commit
from store.storage.listing import files_below

SEEN_WITHIN_S = 60.0
"""A file that another host wrote to a network file system may take this long to be seen here (NFS: acdirmax)."""


def require_commits(settings: Settings, task: ShardTask, result: ShardResult, given_up: threading.Event) -> None:
    """Look for the commits of a shard that a worker says it committed, until they are there or it is given up.

    Raises:
        InputError: it is missing: the worker writes elsewhere.
        ConflictError: there is another one, of another writer.
    """
    until = time.monotonic() + SEEN_WITHIN_S
    for column, content in result.contents.items():
        place = place_of(settings, task.split, column)
        folder = column_dir(settings.store_path, place)
        commit = read_commit(folder, task.shard)
        while commit is None and time.monotonic() < until and not given_up.wait(0.5):
            with contextlib.suppress(OSError):
                files_below(folder)  # makes a network file system look again
            commit = read_commit(folder, task.shard)
        if commit is None:
            raise InputError(
                f"a Dask worker says that it committed shard {task.shard} of {place}, but {folder} has no such shard: the workers "
                "write elsewhere. Start them where the store and the data set of the params file are these same folders"
            )
        if commit.content != content:
            raise ConflictError(
                f"{place}: shard {task.shard} was committed by another writer meanwhile; run this again"
            )
