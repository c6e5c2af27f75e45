"""``params.yaml`` -> frozen settings. Defaults live in that file alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from stages.params import Name, Sections
from stages.train.params import ANSWERING, TrainParams, overridden

ROOT = Path(__file__).resolve().parent.parent
"""The repository: params.yaml, weights.lock and relative paths are looked up here."""


class InputError(Exception):
    """Usage, configuration or input is wrong; exit code 2."""


class VanishedError(OSError):
    """A file that was there when the work began is gone, or another one; exit code 75, as the same command may go on."""


class Settings(Sections):
    """Everything in ``params.yaml``."""

    store: str
    """Folder of the feature store."""
    dataset: Name
    """Name of the data set in the store."""
    splits: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Splits of the data set."""
    shard_images: Annotated[int, Field(ge=1)]
    """S: images a shard."""
    compression: Literal["none", "zstd"]
    """Compression of arrays; features hardly shrink."""
    train: TrainParams
    """Section train."""
    runs: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    """Trainings by name: ``system``, and what differs from section train. A system's own name without an entry here is a run of it
    with section train as it stands."""
    _given: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _names_are_of_use(self) -> Settings:
        if self.dataset == "means":
            raise ValueError("dataset: found means, which is the store's folder of train means; choose another name")
        for name, splits in (("splits", self.splits), ("normalize.train", self.normalize.train)):
            if len(set(splits)) != len(splits):
                raise ValueError(f"{name}: a split stands twice in {list(splits)}")
        if unknown := sorted(set(self.normalize.train) - set(self.splits)):
            raise ValueError(f"normalize.train: {', '.join(unknown)} not in splits")
        return self

    @model_validator(mode="after")
    def _runs_are_trainings(self) -> Settings:
        for name, run in self.runs.items():
            if run.get("system") not in ANSWERING:
                raise ValueError(
                    f"runs.{name}.system: found {run.get('system')!r}, expected one of {', '.join(ANSWERING)}"
                )
            if name in ANSWERING and name != run["system"]:
                raise ValueError(f"runs.{name}.system: found {run['system']}, expected {name}, the system of that name")
            try:
                overridden(self.train, {key: value for key, value in run.items() if key != "system"})
            except ValidationError as error:
                wrong = [f"runs.{name}.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
                raise ValueError("; ".join(wrong)) from error
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dict has no hash

    def command(self, *words: str) -> str:
        """A command to type, with the params file and the values that this one was given."""
        return shlex.join(["python", "cli.py", *self._given, *words])

    @property
    def store_path(self) -> Path:
        """Folder of the store, absolute."""
        return ROOT / self.store

    @property
    def weights_lock(self) -> Path:
        """Digests of adopted and demo weights."""
        return ROOT / "weights.lock"

    def check_split(self, split: str) -> str:
        """Return ``split`` or raise InputError with the choices."""
        if split not in self.splits:
            raise InputError(
                f"--split: found {split!r}, expected one of {', '.join(self.splits)} (splits in params.yaml)"
            )
        return split


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
    if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
        raise InputError(f"{node.start_mark.name}: the key {twice[0]!r} stands twice")
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a params file.

    Args:
        path: the YAML file.
        overrides: ``section.key=value``, the value in YAML.

    Raises:
        InputError: there is no such file, it is not YAML, or a value is missing, unknown or out of range.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such params file; run from the repository root, or name one with --params FILE")
    try:
        with path.open(encoding="utf-8") as file:
            values = yaml.load(file, Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML in UTF-8: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: found {type(values).__name__}, expected sections and keys")
    for override in overrides:
        _apply(values, override)
    try:
        settings = Settings.model_validate(values)
        settings._given = tuple(["--params", str(path)] if path != Path("params.yaml") else [])
        settings._given += tuple(word for override in overrides for word in ("--set", override))
        return settings
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in item['loc']) or 'params'}: {item['msg']}" for item in error.errors()
        ]
        raise InputError(f"{path}: {len(lines)} value(s) are wrong:\n" + "\n".join(lines)) from error


def _apply(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise InputError(f"--set: found {override!r}, expected key=value, e.g. --set masks.points_per_side=16")
    *sections, key = name.split(".")
    place: Any = values
    for section in sections:
        if sections[0] == "runs" and isinstance(place, dict):
            place.setdefault(section, {})
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (key not in place and not _is_parameter(name)):
        raise InputError(f"--set: no parameter {name!r} in the params file")
    try:
        place[key] = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise InputError(f"--set: found {override!r}, expected a value in YAML after the =: {error}") from error


def _is_parameter(name: str) -> bool:
    """Whether there is such a parameter: one with a default need not stand in the file."""
    model: Any = Settings
    for part in name.split("."):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return False
        if part == "runs":
            return True
        if part not in model.model_fields:
            return False
        model = model.model_fields[part].annotation
    return True
