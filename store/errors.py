"""Errors of the store. Each message says what was found, where and what was expected.

They carry the same facts as attributes, for programs: the pipeline adds the command to type, which other programs do not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .addresses import as_address


class StoreError(Exception):
    """Base of every error that the store raises on purpose.

    Args:
        place: what it is about: ``<dataset>/<column>/<split>``, ``means/<mean>/<proposer>/<encoder>``, or ``<dataset>/<split>``.
        shard: the number of the (first) shard it is about. image_index: the (first) image.
        path: the file or folder.
        reason: why, in a few words, where the message says more than that.
        found, expected: what is there (a value, or the names that there are), and what was looked for.

    Attributes that an error does not know are None. ``dataset``, ``column`` and ``split`` are the parts of ``place``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        place: str | None = None,
        shard: int | None = None,
        image_index: int | None = None,
        path: Path | None = None,
        reason: str | None = None,
        found: Any = None,
        expected: Any = None,
    ) -> None:
        super().__init__(as_address(message))
        self.place = place
        self.shard = shard
        self.image_index = image_index
        self.path = None if path is None else as_address(str(path))
        self.reason = reason
        self.found, self.expected = found, expected

    @property
    def dataset(self) -> str | None:
        """The data set it is about; ``means`` for a mean."""
        return None if self.place is None else self.place.partition("/")[0]

    @property
    def column(self) -> str | None:
        """The column, as the store names it."""
        parts = (self.place or "").split("/")
        if parts[0] == "means":
            return self.place
        return "/".join(parts[1:-1]) or None

    @property
    def split(self) -> str | None:
        """The split; a mean has none."""
        parts = (self.place or "").split("/")
        return parts[-1] if len(parts) > 1 and parts[0] != "means" else None


class DamagedStoreError(StoreError):
    """Bytes on disk are not what the commits say: missing, truncated, changed, swapped or unknown."""


class IncompleteColumnError(StoreError):
    """A column is unfinished or stale, or does not fit the split or what it was computed from; the message gives the
    reason, and the shards that it holds for."""


class ConflictError(StoreError):
    """Another writer committed the same shard from different inputs."""


class ChangedError(StoreError):
    """A shard was computed again while it was being read: what was read before and after do not belong together."""


class FailedImageError(StoreError):
    """Data were requested for an image that failed, was removed, or has no annotation; the message holds the reason."""


class RleError(StoreError, ValueError):
    """A COCO run-length encoding is malformed or does not fit its image."""
