"""Errors of the store. Each message says what was found, where and what was expected.

They carry the place as data, so that the pipeline can add the command to type; other programs have no such command.
"""

from __future__ import annotations

from .addresses import as_address


class StoreError(Exception):
    """Base of every error that the store raises on purpose.

    Args:
        place: what it is about: ``<dataset>/<column>/<split>``, ``means/<mean>/<encoder>``, or ``<dataset>/<split>``.
        shard: the number of the (first) shard it is about.
        reason: why, in a few words, where the message says more than that.
    """

    def __init__(
        self, message: str = "", *, place: str | None = None, shard: int | None = None, reason: str | None = None
    ) -> None:
        super().__init__(as_address(message))
        self.place = place
        self.shard = shard
        self.reason = reason


class DamagedStoreError(StoreError):
    """Bytes on disk are not what the commits say: missing, truncated, changed, swapped or unknown."""


class IncompleteColumnError(StoreError):
    """A column is unfinished, stale or a mixture; the message names the shards and the reason."""


class ConflictError(StoreError):
    """Another writer committed the same shard from different inputs."""


class ChangedError(StoreError):
    """A shard was computed again while it was read: what was read before and what comes now do not belong together."""


class FailedImageError(StoreError):
    """Data were asked for of an image that failed, was removed, or has no annotation; the message holds the reason."""


class RleError(StoreError, ValueError):
    """A COCO run-length encoding is malformed or does not fit its image."""
