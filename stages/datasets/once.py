"""Reads large annotation files once per process, however many images they annotate."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

from stages.images import inside

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=Hashable)


class Once(Generic[T, OptionsT]):
    """Calls ``parse(root, files, options)`` the first time, and again when one of the files has changed.

    Threads may share it: one of them parses, the others wait.

    Args:
        keep: number of results to keep, the most recently used ones.
    """

    def __init__(self, parse: Callable[[Path, tuple[str, ...], OptionsT], T], keep: int = 4) -> None:
        self._parse, self._keep = parse, keep
        self._found: OrderedDict[Hashable, T] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def get(self, root: Path, files: tuple[str, ...], options: OptionsT) -> T:
        """What ``parse`` returns; ImageFailure for a path that leads out of ``root``, and OSError for a missing file."""
        states = [inside(root, file).stat() for file in files]
        versions = tuple((state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for state in states)
        key = (root, files, options, versions)
        with self._one_at_a_time:
            if key not in self._found:
                self._found[key] = self._parse(root, files, options)
                while len(self._found) > self._keep:
                    self._found.popitem(last=False)
            self._found.move_to_end(key)
            return self._found[key]
