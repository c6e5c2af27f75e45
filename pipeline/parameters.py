"""Names of parameters, as the models of the sections have them, and plain words for a value that does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stages.names import did_you_mean

Location = tuple[int | str, ...]
_WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "missing": "a value",
}
"""pydantic's kinds of errors -> what was expected."""
_BOUNDS = {"greater_than_equal": "ge", "greater_than": "gt", "less_than_equal": "le", "less_than": "lt"}
_BOUND_WORDS = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


def _inner(annotation: Any) -> Any:
    """The annotation of a value that is not null."""
    if get_origin(annotation) is Annotated:
        return _inner(get_args(annotation)[0])
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return _inner(inner[0]) if get_origin(annotation) in (Union, UnionType) and len(inner) == 1 else annotation


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, also of one that may be null; None for a plain value."""
    found = _inner(annotation)
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _entry(annotation: Any) -> Any:
    """The annotation of the entries of a section whose keys are free; None for another annotation."""
    found = _inner(annotation)
    return get_args(found)[1] if get_origin(found) in (dict, Mapping) else None


def children(model: type[BaseModel], path: Sequence[int | str]) -> Mapping[str, Any] | None:
    """Field -> annotation of the section at ``path``; None where that is not a section with fixed fields."""
    found: Any = model
    for key in path:
        section = model_of(found)
        if section is not None:
            found = _fields(section).get(str(key))
        else:  # a section whose keys are free
            found = _entry(found)
    section = model_of(found)
    return None if section is None else _fields(section)


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    """Field -> annotation; for a section that has several kinds (models derived from its own), the fields of all kinds."""
    models = [section, *section.__subclasses__()]
    return {name: field.annotation for model in models for name, field in model.model_fields.items()}


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every parameter as ``section.key``, sections among them; NAME stands for a key that is free."""
    every: dict[str, FieldInfo] = {}
    for each in (model, *model.__subclasses__()):
        for name, field in each.model_fields.items():
            if name not in every or every[name].is_required():  # of several kinds, the first that has a default
                every[name] = field
    for name, field in every.items():
        yield prefix + name, field
        section, entry = model_of(field.annotation), model_of(_entry(field.annotation))
        if section is not None:
            yield from fields(section, f"{prefix}{name}.")
        elif entry is not None:
            yield from fields(entry, f"{prefix}{name}.NAME.")


def names(model: type[BaseModel]) -> Iterator[str]:
    """The names of :func:`fields`."""
    return (name for name, _ in fields(model))


@cache
def _every(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(names(model))


def alike(model: type[BaseModel], name: str) -> str | None:
    """The parameter that was probably meant by ``name``: one that ends with it, or one of similar spelling."""
    every = _every(model)
    ending = [known for known in every if known.endswith(f".{name}")]
    if ending:
        return min(ending, key=lambda known: known.count("."))
    close = get_close_matches(name, every, n=1, cutoff=0.75)
    if not close:  # the last word may be misspelt in a long name, or stand alone
        last = {known.rpartition(".")[2]: known for known in reversed(every)}
        close = [last[key] for key in get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.8)]
    return close[0] if close else None


def unknown(model: type[BaseModel], location: Location, depth: int = -1) -> str:
    """``; did you mean x?`` where key number ``depth`` of a location is not a parameter; empty where no parameter is similar."""
    before, key, rest = location[:depth], str(location[depth]), location[depth:][1:]
    siblings = children(model, before) or {}
    if key in siblings:
        return f"; it belongs to another kind of {dotted(before)}"
    close = get_close_matches(key, siblings, n=1, cutoff=0.6) or [
        name for name in siblings if name.startswith(f"{key}_")
    ]
    meant = dotted((*before, close[0], *rest)) if close else alike(model, dotted(location))
    return f"; did you mean {meant}?" if meant else ""


def dotted(location: Location) -> str:
    """The name of a parameter from its parts, such as ``embed.max_masks``."""
    return ".".join(str(part) for part in location if part != "[key]")


def explain(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    """One of pydantic's errors: which parameter, what was found, what was expected."""
    location, kind, found = error["loc"], error["type"], error["input"]
    context = error.get("ctx") or {}
    where = f"{dotted(location)}: " if location else ""
    if kind == "extra_forbidden":
        return f"{where}unknown parameter{unknown(model, location)}"
    if kind == "missing":
        return f"{where}not there, expected {_WORDS[kind]}"
    if kind in ("value_error", "assertion_error"):
        return f"{where}{error['msg'].partition(', ')[2]}"
    if kind in _BOUNDS:
        expected = _BOUND_WORDS[_BOUNDS[kind]].format(f"{context[_BOUNDS[kind]]:.12g}") + _such_as(model, location)
    elif kind in ("literal_error", "enum"):
        choices = context["expected"].replace("'", "")
        expected = choices + did_you_mean(str(found), choices.replace(" or ", ", ").split(", "), 0.7)
    elif kind.startswith(("tuple_", "list_")):
        inner = found if isinstance(found, str | int | float) else "..."
        expected = f"a list: [{inner}]"
    elif kind.startswith(("model_", "dict_")):
        keys = ", ".join(children(model, location) or ())
        of_each = ", ".join(f"{key}: ..." for key in children(model, (*location, "NAME")) or ())
        expected = f"a section with the keys {keys}" if keys else f"a section, NAME: {{{of_each}}}"
    elif kind == "too_short":
        expected = f"{context['min_length']} or more entries"
    elif kind == "string_pattern_mismatch":
        dot = "'_', '.' and '-'" if "." in str(context.get("pattern")) else "'_' and '-'"
        expected = f"letters, digits, {dot}, the first one a letter or a digit"
        name = re.sub(r"\W+", "_", str(found)).strip("_-")
        expected += f", such as {name}" if name else ""
    else:
        expected = _WORDS.get(kind, error["msg"]) + _such_as(model, location)
    return f"{where}found {_short(found)}, expected {expected}"


def _such_as(model: type[BaseModel], location: Location) -> str:
    """``, such as 8``: the default of a parameter, where that is a number; else nothing."""
    section: Any = model
    for key in location[:-1]:
        each = model_of(section)
        section = _entry(section) if each is None else _fields(each).get(str(key))
    each = model_of(section)
    known = [] if each is None else [each, *each.__subclasses__()]
    found = next((one.model_fields[name] for one in known if (name := str(location[-1])) in one.model_fields), None)
    value = None if found is None or found.is_required() else found.get_default(call_default_factory=False)
    return f", such as {value}" if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _short(found: Any) -> str:
    if found is None:
        return "nothing"
    text = json.dumps(found, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."
