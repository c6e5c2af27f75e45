"""The gate: a loader must give every record of an epoch once, byte for byte, as writable collated tensors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import data
from tests.benchmarks.collate import Batch, batch_size


class GateError(Exception):
    """A loader's output is not what was asked for."""


def canonical(root: Path, records: data.Records) -> dict[str, list[str]]:
    """Digests of all records, whole and of masks and text; kept in a file of ``root``."""
    file = root / f"digests-{records.count}-{records.seed}.json"
    if not file.exists():
        found: dict[str, list[str]] = {"whole": [], "narrow": []}
        for record in records:
            found["whole"].append(data.digest(record))
            found["narrow"].append(data.digest(record, whole=False))
        file.write_text(json.dumps(found))
    loaded: dict[str, list[str]] = json.loads(file.read_text())
    return loaded


def digests(batches: Iterable[Batch], profile: str, reused: bool = False) -> list[str]:
    """Digest of every record, after a check of the batch that contains it.

    A batch must stay as it is while the next one is made, unless its memory is ``reused`` (the ceiling).
    """
    found: list[str] = []
    held: tuple[Batch, str] | None = None
    for batch in batches:
        own = [data.digest(record, profile != "embeddings_text") for record in split(batch, profile)]
        if held is not None and not reused and first_digest(held[0], profile) != held[1]:
            raise GateError("a batch changed while the next one was made")
        if held is not None:
            for name in ("patches", "masks"):
                if name in held[0]:
                    held[0][name].zero_()  # the batch is writable and not shared: later records are still right
        held = (batch, own[0])
        found += own
    return found


def first_digest(batch: Batch, profile: str) -> str:
    """Digest of a batch's first record."""
    return data.digest(next(iter(split(batch, profile))), profile != "embeddings_text")


def split(batch: Batch, profile: str) -> Iterable[dict[str, Any]]:
    """The records of a batch; raises :class:`GateError` when it is not collated as it should be."""
    count = len(batch["text"])
    if not 0 < count <= batch_size(profile):
        raise GateError(f"a batch of {count} records")
    for name, shape in (("patches", data.PATCHES), ("masks", data.MASKS)):
        if name == "patches" and profile == "embeddings_text":
            continue
        tensor = batch.get(name)
        if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.float16 or not tensor.is_contiguous():
            raise GateError(f"{name} is no contiguous float16 tensor")
        if tensor.shape[0] != count or tensor.shape[2:] != shape[1:] or tensor.shape[1] < shape[0]:
            raise GateError(f"{name} has the shape {tuple(tensor.shape)}")
    for slot in range(count):
        record = {"masks": batch["masks"][slot, : data.MASKS[0]].numpy(), "text": batch["text"][slot]}
        if profile != "embeddings_text":
            record |= {"patches": batch["patches"][slot].numpy(), "rles": batch["rles"][slot]}
        yield record


def check(batches: Iterable[Batch], profile: str, expected: dict[str, list[str]], reused: bool = False) -> None:
    """Raises :class:`GateError` unless the epoch holds exactly the records; ``sequential`` also in their order."""
    wanted = expected["narrow" if profile == "embeddings_text" else "whole"]
    found = digests(batches, profile, reused)
    if profile == "sequential" and found != wanted:
        raise GateError(wrong(found, wanted) or "all records, in another order")
    if message := wrong(found, wanted):
        raise GateError(message)
    if profile in ("shuffled", "embeddings_text") and found == wanted and len(wanted) > data.BATCH:
        raise GateError("nothing was shuffled")


def wrong(found: list[str], wanted: list[str]) -> str:
    """What differs, as sets with counts; empty when nothing does."""
    extra, missing = Counter(found) - Counter(wanted), Counter(wanted) - Counter(found)
    if not extra and not missing:
        return ""
    return f"{len(found)} records of {len(wanted)}: {extra.total()} wrong or twice, {missing.total()} missing"
