"""Errors of the store. Each message says what was found, where, what was expected and what to type."""

from __future__ import annotations


class StoreError(Exception):
    """Base of every error that the store raises on purpose."""


class DamagedStoreError(StoreError):
    """Bytes on disk are not what the commits say: missing, truncated, changed, swapped or unknown."""


class IncompleteColumnError(StoreError):
    """A column is unfinished, stale or a mixture; the message names the shards and the command to type."""


class ConflictError(StoreError):
    """Another writer committed the same shard from different inputs."""


class FailedImageError(StoreError):
    """Of an image that failed, was removed, or has no annotation, something was asked for; the message holds the reason."""


class RleError(StoreError, ValueError):
    """A COCO run-length encoding is malformed or does not fit its image."""
