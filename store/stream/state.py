"""The state of a stream, as a checkpoint holds it: read, and refused where it cannot be one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import StoreError
from ..read.options import flag, whole

T = TypeVar("T")

STATE_VERSION = 1
MOST_SEED = 2**64 - 1


@dataclass(frozen=True)
class State:
    """Where a stream stood.

    Args:
        position: samples of the epoch that were handed out, over all ranks.
        length: samples of the epoch.
        samples: source -> how many it has.
        consumed: source -> how many of it came before the epoch.
        weights: source -> its share.
    """

    seed: int
    shuffle: bool
    epoch: int
    position: int
    length: int
    samples: dict[str, int]
    consumed: dict[str, int]
    weights: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The state as a dict, for JSON."""
        return {"version": STATE_VERSION, **vars(self)}


def read_state(state: object) -> State:
    """The state in what ``state_dict()`` gave, whether kept by JSON, pickle or torch.save.

    Raises:
        StoreError: it is something else; the message names what, and what was expected.
    """
    if not isinstance(state, Mapping):
        raise StoreError(
            f"found a loader state of type {type(state).__name__}, expected the dict that state_dict() gave"
        )
    version = state.get("version")
    if isinstance(version, bool) or version != STATE_VERSION:
        raise StoreError(f"found a loader state of version {version!r}, expected {STATE_VERSION}")
    names = list(State.__dataclass_fields__)
    if missing := [name for name in names if name not in state]:
        raise StoreError(
            f"the loader state lacks {', '.join(missing)}; expected {', '.join(names)}, as state_dict() gave it"
        )
    try:
        found = State(
            whole("seed", state["seed"], most=MOST_SEED),
            flag("shuffle", state["shuffle"]),
            whole("epoch", state["epoch"]),
            whole("position", state["position"]),
            whole("length", state["length"]),
            _by_source("samples", state["samples"], whole),
            _by_source("consumed", state["consumed"], whole),
            _by_source("weights", state["weights"], _share),
        )
    except (TypeError, ValueError) as error:
        raise StoreError(f"the loader state is not one that state_dict() gave: {error}") from error
    if found.position > found.length:
        raise StoreError(
            f"the loader state has position={found.position}, beyond the {found.length} samples of its epoch"
        )
    for name, by_source in (("consumed", found.consumed), ("weights", found.weights)):
        if by_source.keys() != found.samples.keys():
            raise StoreError(f"the loader state has {name} of {list(by_source)}, but samples of {list(found.samples)}")
    return found


def _by_source(name: str, value: Any, read: Callable[[str, Any], T]) -> dict[str, T]:
    if not isinstance(value, Mapping) or not all(isinstance(source, str) for source in value):
        raise ValueError(f"found {name}={value!r}, expected a number for each source")
    return {source: read(f"{name}[{source!r}]", number) for source, number in value.items()}


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__") or not 0 <= float(value) < math.inf:
        raise ValueError(f"found {name}={value!r}, expected a share, 0 or more")
    return float(value)
