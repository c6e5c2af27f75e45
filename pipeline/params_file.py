"""Reads a params file and what the command line changes of it: every wrong value is named with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config import InputError, Settings
from pipeline.parameters import children, dotted, explain, unknown


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a key that stands twice is an error. By libyaml where PyYAML has it, which takes a tenth of the time."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]  # type: ignore[no-untyped-call]
    if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
        raise InputError(f"{node.start_mark.name}: the key {twice[0]!r} stands twice")
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load_settings(path: Path, overrides: Sequence[str] = (), options: Mapping[str, str] | None = None) -> Settings:
    """Read a params file.

    Args:
        path: the YAML file.
        overrides: ``section.key=value``, the value in YAML.
        options: option of the command line (``--device``) -> value, a text, of the parameter ``run.device`` that it stands for.

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
    origins = {_apply(values, override, path): f"--set {override}" for override in overrides}
    for option, value in (options or {}).items():
        name = ("run", option.removeprefix("--").replace("-", "_"))
        _place(values, name, f"{option} {value}", path)[name[-1]] = value
        origins[name] = f"{option} {value}"
    try:
        settings = Settings.model_validate(values)
        settings._given = tuple(["--params", str(path)] if path != Path("params.yaml") else [])
        settings._given += tuple(word for override in overrides for word in ("--set", override))
        return settings
    except ValidationError as error:
        raise InputError(_told(path, origins, error)) from error


def _told(path: Path, origins: Mapping[tuple[str, ...], str], error: ValidationError) -> str:
    """Each wrong value with where it came from: the params file, or the option that gave it last."""
    lines: dict[str, list[str]] = {}
    for item in error.errors():
        given = [text for name, text in origins.items() if item["loc"][: len(name)] == name]
        inside = [text for name, text in origins.items() if name[: len(item["loc"])] == item["loc"]]
        source = given[-1] if given else str(path)
        if inside and not given:  # parameters of the file and of the options that do not fit each other
            source = f"{path} with {', '.join(inside)}"
        lines.setdefault(source, []).append(explain(Settings, item))
    return "\n".join(f"{source}: {found[0]}" if len(found) == 1 else f"{source}: {len(found)} values are wrong:\n  "
        + "\n  ".join(found) for source, found in lines.items())  # fmt: skip


def _apply(values: dict[str, Any], override: str, path: Path) -> tuple[str, ...]:
    name, separator, text = override.partition("=")
    if not separator:
        raise InputError(f"--set: found {override!r}, expected key=value, e.g. --set embed.max_masks=32")
    location = tuple(name.strip().split("."))
    place = _place(values, location, f"--set {override}", path)
    try:
        place[location[-1]] = yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise InputError(f"--set: found {override!r}, expected a value in YAML after the =: {error}") from error
    return location


def _place(values: dict[str, Any], location: tuple[str, ...], given: str, path: Path) -> dict[str, Any]:
    """The section that holds a parameter. One that the file leaves out, as it has a default, is set as well."""
    place = values
    for depth, key in enumerate(location):
        known = children(Settings, location[:depth])
        if key not in place and known is not None and key not in known:
            raise InputError(f"{given}: no parameter {dotted(location)!r}{unknown(Settings, location, depth)}")
        if depth == len(location) - 1:
            break
        if place.get(key) is None:  # left out, or null: a section that this begins
            place[key] = {}
        place = place[key]
        if not isinstance(place, dict):
            raise InputError(f"{given}: {dotted(location[: depth + 1])} is a value in {path}, no section")
    return place
