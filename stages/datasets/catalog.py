"""Recognises which published data set an entry of the params is; the facts about it are in ``catalog.yaml`` next to this file.

An unverified fact is left empty, and printed as not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from stages.datasets.params import DataParams


@dataclass(frozen=True)
class PublishedSet:
    """A published data set; the head of ``catalog.yaml`` says what each field is."""

    title: str
    format: str
    counts: str
    options: Mapping[str, tuple[str, ...]]
    splits: tuple[str, ...]
    folders: tuple[str, ...]
    aliases: Mapping[str, str]
    licence: str = ""
    pictures: str = ""
    pictures_licence: str = ""
    url: str = ""
    get: str = ""
    note: str = ""


@dataclass(frozen=True)
class Recognised:
    """The published set that an entry is taken to be, and how it was recognised."""

    set: PublishedSet
    by: str


def recognise(data: DataParams, name: str) -> Recognised | None:
    """The published set that an entry of section ``data`` stands for; None if it matches none of the known ones.

    Its format and options must match. If they match several sets, the name of its folder decides. Its name in the params is only a
    hint, and the result says so.
    """
    fitting = [each for each in catalog().values() if each.format == data.format and _fits(each, data)]
    folders = [PurePosixPath(root).name.lower() for root in data.roots]
    for each in fitting:
        if not each.folders:
            return Recognised(each, "its format and options")
    for each in fitting:
        if found := next((folder for folder in folders if folder in each.folders), None):
            return Recognised(each, f"the name of its folder, {found}")
    for each in fitting:
        if _plain(name) in map(_plain, each.folders):
            return Recognised(each, f"its name in the params, {name}, which is a hint only")
    return None


def counted_as(data: DataParams, found: PublishedSet, split: str) -> tuple[str, str, str]:
    """The key of a split's counts in ``stages.datasets.published``: set, who made its splits, split."""
    return found.counts, str(getattr(data, "split_by", "")), found.aliases.get(split, split)


@lru_cache(maxsize=1)
def catalog() -> dict[str, PublishedSet]:
    """All known sets."""
    values = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {key: _published(key, dict(value)) for key, value in values.items()}


def _published(key: str, value: dict[str, Any]) -> PublishedSet:
    options = {option: _several(patterns) for option, patterns in value.pop("options", {}).items()}
    splits, folders = _several(value.pop("splits", ())), _several(value.pop("folders", ()))
    return PublishedSet(**{"counts": key, "aliases": {}, **value}, options=options, splits=splits, folders=folders)


def _several(value: str | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _fits(each: PublishedSet, data: DataParams) -> bool:
    options = all(_matches(str(getattr(data, option)), patterns) for option, patterns in each.options.items())
    return options and all(not each.splits or _matches(split, each.splits) for split in data.splits)


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _plain(name: str) -> str:
    return name.lower().replace("+", "plus").replace("-", "").replace("_", "")
