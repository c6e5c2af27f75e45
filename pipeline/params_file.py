"""Reads a params file and what the command line changes of it: every wrong value is named with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import ROOT, InputError, Settings
from pipeline.parameters import children, dotted, explain, unknown
from pipeline.params_yaml import NotYamlError, read_yaml, yaml_value
from store.addresses import below, is_remote


def load_settings(path: Path, overrides: Sequence[str] = (), options: Mapping[str, str] | None = None) -> Settings:
    """Read a params file.

    Args:
        path: the YAML file.
        overrides: ``section.key=value``, the value in YAML.
        options: option of the command line (``--device``) -> value, a text, of the parameter ``run.device`` that it stands for.

    Raises:
        InputError: there is no such file, it is not YAML, or a value is missing, unknown or out of range.
    """
    values = read_yaml(path)
    origins = {_apply(values, override, path): f"--set {override}" for override in overrides}
    for option, value in (options or {}).items():
        name = ("run", option.removeprefix("--").replace("-", "_"))
        _place(values, name, f"{option} {value}", path)[name[-1]] = value
        origins[name] = f"{option} {value}"
    try:
        settings = Settings.model_validate(values)
        settings._given = tuple(["--params", str(path)] if path != Path("params.yaml") else [])
        settings._given += tuple(word for override in overrides for word in ("--set", override))
    except ValidationError as error:
        raise InputError(_told(path, origins, error)) from error
    _require_folders(settings)
    return settings


def _require_folders(settings: Settings) -> None:
    """Raise InputError where a file lies in the place of a folder that commands write into."""
    run = settings.run
    folders = {"store": settings.store, "run.train_dir": run.train_dir, "run.report_dir": run.report_dir}
    for name, value in {**folders, "run.cache_dir": run.cache_dir, "run.weights_dir": run.weights_dir}.items():
        path = below(ROOT, value)
        if not is_remote(path) and path.is_file():
            raise InputError(
                f"{name}: found a file, {path}, expected a folder, such as {path.with_name(name.removeprefix('run.'))}"
            )


def _told(path: Path, origins: Mapping[tuple[str, ...], str], error: ValidationError) -> str:
    """Each wrong value and where it came from: the params file, or the last option that gave it."""
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
        place[location[-1]] = yaml_value(text)
    except NotYamlError as error:
        raise InputError(f"--set {override}: not YAML, expected a value in YAML after the =: {error}") from error
    return location


def _place(values: dict[str, Any], location: tuple[str, ...], given: str, path: Path) -> dict[str, Any]:
    """The section that holds a parameter. A section that the file leaves out, because it has defaults, is added."""
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
            raise InputError(
                f"{given}: {dotted(location[: depth + 1])} is a value in {path}, no section; "
                f"expected --set {dotted(location[: depth + 1])}=VALUE"
            )
    return place
