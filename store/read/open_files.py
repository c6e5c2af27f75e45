"""The open files of shards: those used most recently, as many as the process may have; closed when nobody reads them."""

from __future__ import annotations

import errno
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from ..forks import LOCK
from ..storage.protocol import Opened

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None  # type: ignore[assignment]

T = TypeVar("T")

MOST = 256
"""How many files are kept open at most, even if the process may have more."""
SHARE = 4
"""One in this many of the process's file descriptors may be used here: the rest is for other code in it."""


def most_open() -> int:
    """How many files may be kept open, by the process's soft limit (``ulimit -n``) as it is now."""
    if resource is None:
        return MOST
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft // SHARE))


_open: OrderedDict[weakref.ref[Any], Opened] = OrderedDict()
"""The open file of each reader, least recently used first. A file is removed from here when its reader is deleted."""


def handle(reader: Any) -> weakref.ref[Any]:
    """The key under which a reader's file is kept for as long as the reader exists."""
    key = weakref.ref(reader, _forget)
    hash(key)  # computed now, because it cannot be once the reader is gone
    return key


def opened(key: weakref.ref[Any], opens: Callable[[], Opened]) -> Opened:
    """The open file of a reader, by its :func:`handle`; the least recently used files are closed to make room."""
    file = _open.get(key)
    if file is not None:
        try:  # noqa: SIM105 (suppress takes longer than the rest of this)
            _open.move_to_end(key)
        except KeyError:  # another thread closed it to open its own; this one still holds it
            pass
        return file
    file = opens()
    with LOCK:
        _open[key] = file
    keep_to_limit()
    return file


def shut(key: weakref.ref[Any]) -> None:
    """Let go of a reader's file: it is opened again when it is read again."""
    with LOCK:
        _open.pop(key, None)


def keep_to_limit() -> None:
    """Close the files used longest ago where more are open than the limit now allows."""
    limit = most_open()
    with LOCK:
        while len(_open) > limit:
            _open.popitem(last=False)


def with_room(opens: Callable[[], T]) -> T:
    """Open something; if the process has no descriptor left for it, close the files that are only kept open."""
    try:
        return opens()
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE) or not _open:
            raise
    with LOCK:
        _open.clear()
    return opens()


def _forget(key: weakref.ref[Any]) -> None:
    _open.pop(key, None)
