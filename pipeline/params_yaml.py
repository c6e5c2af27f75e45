"""Reads the YAML of params files and of ``--set``; errors in it are reported with the line and what to write instead."""

from __future__ import annotations

import codecs
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import ROOT, InputError
from stages.nearby import meant_file


class NotYamlError(Exception):
    """A text is not YAML; the message says where and why."""


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a repeated key is an error. Uses libyaml where PyYAML has it, which takes a tenth of the time."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; NotYamlError for a text that is not what it looks like, or what its tag says."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # at 2026-13-01, and at !!int x
            kind = node.tag.rpartition(":")[2]
            raise NotYamlError(
                f"line {node.start_mark.line + 1}: not YAML: found {node.value!r}, which is not a valid {kind}; "
                "put a text in quotes"
            ) from error


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    lines: dict[Any, int] = {}
    for key_node, _ in node.value:
        key, line = loader.construct_object(key_node), key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise NotYamlError(
                f"line {line}: not YAML: found a list or a section in the place of a key, expected a name; "
                "put a text that begins with { or [ in quotes"
            )
        if key in lines:
            raise NotYamlError(
                f"line {line}: the key {key!r} appears twice (first in line {lines[key]}); keep one of them"
            )
        lines[key] = line
    found: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return found


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def yaml_value(text: str) -> Any:
    """The value that a text is in YAML.

    Raises:
        NotYamlError: the text is not YAML; where closing its brackets makes it YAML, the message shows the text closed.
    """
    try:
        return _value(text)
    except NotYamlError as error:
        closed = text + _not_closed(text)
        raise NotYamlError(f"{error}{f', such as {closed}' if _is_yaml(closed) else ''}") from error


def _is_yaml(text: str) -> bool:
    try:
        _value(text)
    except NotYamlError:
        return False
    return True


def _value(text: str) -> Any:
    """What a text holds; NotYamlError, with the line, for all that PyYAML may raise."""
    try:
        return yaml.load(text, Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise NotYamlError(_why(error, text.splitlines())) from error
    except UnicodeEncodeError as error:  # from bytes of the command line that are not UTF-8
        raise NotYamlError(f"not YAML: found {text[error.start]!r}, expected UTF-8") from error
    except RecursionError as error:
        raise NotYamlError("not YAML: found lists or sections within each other, hundreds deep") from error


def _not_closed(text: str) -> str:
    """The brackets that close those that a text leaves open."""
    ends: list[str] = []
    for letter in text:
        if letter in "[{":
            ends.append("]" if letter == "[" else "}")
        elif ends and letter == ends[-1]:
            ends.pop()
    return "".join(reversed(ends))


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a params file.

    Raises:
        InputError: there is no such file, it is not YAML in UTF-8, or it has no sections.
    """
    if path.is_dir():
        inside = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES)
        raise InputError(
            f"{path}: found a folder, expected a params file" + (f", such as {inside[0]}" if inside else "")
        )
    if not path.is_file():
        raise InputError(
            f"{path}: no such params file{meant_file(path, _SUFFIXES)}; name one with --params FILE, or run from the "
            f"repository root: cd {ROOT}"
        )
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        encoding = "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "CP1252"
        where = "" if encoding == "UTF-16" else f" in line {line}"
        raise InputError(
            f"{path}: not UTF-8{where}, expected UTF-8; if it is {encoding}: "
            f"iconv -f {encoding} -t UTF-8 {path} > params_utf8.yaml, then --params params_utf8.yaml"
        ) from error
    try:
        values = _value(text)
    except NotYamlError as error:
        raise InputError(f"{path}, {error}") from error
    if not isinstance(values, dict):
        found = (
            "the file is empty" if values is None else "found a list" if isinstance(values, list) else "found a text"
        )
        example = ROOT / "params/reasonseg.yaml"
        raise InputError(
            f"{path}: {found}, expected sections and keys, as in {example}; to begin with it: cp {example} {path}"
        )
    return values


_SUFFIXES = (".yaml", ".yml")


def _why(error: yaml.YAMLError, lines: Sequence[str]) -> str:
    """``line 3: not YAML: ...``, in words that say what to write."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"not YAML: {str(error).partition(chr(10))[0]}"
    problem, number = str(error.problem).replace("did not find expected", "expected"), mark.line  # type: ignore[attr-defined]
    opened = getattr(error, "context_mark", None)
    if opened is not None and "expected ',' or" in problem:
        number = opened.line
        problem = f"{problem} that closes {lines[number][opened.column : opened.column + 20]!r}"
    elif number < len(lines) and "\t" in (indent := re.match(r"\s*", lines[number])[0]):  # type: ignore[index]
        problem = f"found a tab at the start, expected spaces: {len(indent.expandtabs(2))} of them"
    elif "unknown escape" in problem:
        problem = "found a backslash in double quotes, expected single quotes around a text with backslashes"
    elif "mapping values" in problem or "could not find expected ':'" in problem:
        glued = (at for at, line in enumerate(lines[: number + 1]) if re.match(r"\s*[\w-]+:[^\s:]", line))
        if (at := next(glued, None)) is not None:
            number, problem = at, f"expected a space after the colon of {lines[at].strip()[:40]!r}"
    return f"line {number + 1}: not YAML: {problem}"
