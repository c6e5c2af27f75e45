"""What decides the result of a run, so that a finished or stopped run is recognised and not confused with another one.

A run is one training: a system, its parameters, a language model, data. Its digest covers all of them. Parameters that only
decide how a trained model answers belong to predictions (:func:`answering`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from stages.train.language.base_model import locate_llava
from stages.train.language.prompts import prompts_digest
from stages.train.params import HOW, SINCE, SegParams, TrainParams
from stages.train.systems import SYSTEMS
from store.read.borrowed import AnyColumn
from store.split import Split
from store.storage.files import cached_sha256, digest

SHORT = 12
"""Number of digits of a digest in names and messages."""


LeftOut = Mapping[str, Sequence[int]]
"""Split -> image_index of the pictures that a training leaves out."""


def identity(
    params: TrainParams,
    system: str,
    splits: Mapping[str, Split],
    without: LeftOut | None = None,
    start: Path | None = None,
) -> dict[str, Any]:
    """What identifies a run.

    ``system``, its ``version``, ``params`` without those of the other systems, a digest ``llava`` of the language model and one
    of each column; if pictures are left out, their number per split and a digest of them; a digest of the weights that the run
    starts from, and of prompts other than the released ones. ValueError for an invalid file of prompts.
    """
    others = SYSTEMS.keys() - {system} | (set() if SYSTEMS[system].centered else {"mean"})
    found = {
        "system": system,
        "version": SYSTEMS[system].version,
        "params": params.model_dump(mode="json", exclude=others),
        "llava": llava_digest(params.llava),
        "columns": {
            column.place: column_digest(column) for split in splits.values() for column in split.columns.values()
        },
    }
    if start is not None:
        found["start"] = cached_sha256(start)
    if params.prompts is not None and issubclass(SYSTEMS[system].params, SegParams):
        own = prompts_digest(params.prompts)
        found |= {} if own is None else {"prompts": own}
    if without:
        found["left_out"] = {name: {"pictures": len(own), "digest": digest(list(own))} for name, own in without.items()}
    return found


def run_digest(about: Mapping[str, Any]) -> str:
    """sha256 (hex) of an :func:`identity`, without parameters that only decide how it answers."""
    system = system_of(about)
    decides = _deciding(about.get("params", {}), system)
    others = {name: about.get(name) for name in ("version", "llava", "columns")}
    others |= {name: about[name] for name in ("left_out", "start", "prompts") if name in about}
    return digest({"system": system, "params": decides, **others})


def system_of(about: Mapping[str, Any]) -> str:
    """The system of a run, from its :func:`identity`; earlier identities show it by the section they kept."""
    named = next((name for name in SYSTEMS if name in about.get("params", {})), "")
    return str(about.get("system", named))


def column_digest(column: AnyColumn) -> str:
    """sha256 (hex) of what a column holds: its fingerprint and the contents of its shards."""
    return digest(column.contents())


def llava_digest(name: str) -> str:
    """Digest of the names and bytes of the files in a model's folder. A name that is not a folder is returned unchanged."""
    try:
        folder = Path(locate_llava(name))
    except ValueError:  # said where it is loaded
        return name
    if not folder.is_absolute():
        return name
    return digest({path.name: cached_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()})


def answering(params: TrainParams, system: str) -> dict[str, Any]:
    """The parameters that only decide how a trained system answers: name below ``train`` -> value."""
    own = getattr(params, system).model_dump(mode="json")
    return {f"{system}.{name}": own[name] for name in SYSTEMS[system].answering}


@dataclass(frozen=True)
class Difference:
    """A difference between two runs; ``str()`` describes it. ``parameter``: its name below ``train``, or None."""

    what: str
    old: Any
    new: Any
    parameter: str | None = None

    def __str__(self) -> str:
        if self.parameter is not None:
            return f"train.{self.parameter}: {_shown(self.old)} -> {_shown(self.new)}"
        return f"{self.what}: {_brief(self.old)} -> {_brief(self.new)}"


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any], data: bool = True) -> list[Difference]:
    """The differences between two identities (:func:`identity`), the older one first; empty if they are the same run.

    Args:
        data: whether to compare also the columns they learned from.
    """
    system = system_of(wanted)
    if system_of(found) != system:
        return [Difference("system", system_of(found) or "unknown", system)]
    differ = []
    if found.get("version") != wanted["version"]:
        differ.append(Difference(f"version of {system}'s training code", found.get("version"), wanted["version"]))
    old, new = (_deciding(about.get("params", {}), system) for about in (found, wanted))
    differ += [Difference("", left, right, name) for name, left, right in _unequal(old, new)]
    if found.get("llava") != wanted["llava"] and not any(one.parameter == "llava" for one in differ):
        differ.append(Difference("files of the language model", found.get("llava"), wanted["llava"]))
    old_prompts, new_prompts = (about.get("prompts", "the released ones") for about in (found, wanted))
    if old_prompts != new_prompts:
        differ.append(Difference("prompts", old_prompts, new_prompts))
    if data:
        left, right = found.get("columns", {}), wanted["columns"]
        names = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
        differ += [Difference(f"data in {name}", left.get(name), right.get(name)) for name in names]
        if found.get("start") != wanted.get("start") and not any(one.parameter == "start" for one in differ):
            differ.append(Difference("weights that it began with", found.get("start"), wanted.get("start")))
        left, right = found.get("left_out", {}), wanted.get("left_out", {})
        names = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
        differ += [Difference(f"pictures left out of {name}", left.get(name), right.get(name)) for name in names]
    return differ


def _deciding(values: Mapping[str, Any], system: str, prefix: str = "") -> dict[str, Any]:
    """The parameters that decide the result of a run, without new ones whose value means the old behaviour."""
    line = SYSTEMS.get(system)
    left = {*HOW, "prompts", *(f"{system}.{name}" for name in (line.answering if line else ()))}
    left |= set() if line and line.chooses else {"proposer"}
    kept = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in left or (name in _DEFAULTS and _DEFAULTS[name] == value):
            continue
        kept[key] = _deciding(value, system, f"{name}.") if isinstance(value, Mapping) else value
    return kept


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name, old and new value of parameters that differ."""
    for key in dict.fromkeys([*old, *new]):
        name = f"{prefix}{key}"
        left, right = (side[key] if key in side else _DEFAULTS.get(name) for side in (old, new))
        if isinstance(left, Mapping) and isinstance(right, Mapping) and name not in _DEFAULTS:
            yield from _unequal(left, right, f"{name}.")
        elif left != right:
            yield name, left, right


def _defaults(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> default of the parameters that have one."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if not field.is_required():
            found[f"{prefix}{name}"] = to_jsonable_python(field.get_default(call_default_factory=True))
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= _defaults(kind, f"{prefix}{name}.")
    return found


_DEFAULTS = {name: value for name, value in _defaults(TrainParams).items() if name in SINCE}


def _shown(value: Any) -> str:
    return json.dumps(value)


def _brief(value: Any) -> str:
    """A digest shortened, any other value as text; ``none recorded`` for None."""
    if value is None:
        return "none recorded"
    return value[:SHORT] if isinstance(value, str) and len(value) == 64 else str(value)
