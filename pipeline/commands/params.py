"""The verb ``params``: the settings in full, and what each of them means."""

from __future__ import annotations

import textwrap

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from pipeline.config import Settings
from pipeline.parameters import fields, model_of

_FIRST = ("store", "data", "shard_images")
"""Keys at the head of a params file."""


def settings_text(settings: Settings) -> str:
    """The settings with all defaults, as YAML that is a params file."""
    values = settings.model_dump(mode="json")
    ordered = {name: values[name] for name in (*_FIRST, *(name for name in values if name not in _FIRST))}
    return yaml.safe_dump(ordered, sort_keys=False, allow_unicode=True)


def documentation() -> str:
    """Every parameter with its default and what it means, section by section."""
    return "\n".join(
        f"{name}{_default(field)}\n{textwrap.indent(textwrap.fill(_meaning(field), 110), '    ')}"
        for name, field in fields(Settings)
    )


def _meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").replace("``", "").split())


def _default(field: FieldInfo) -> str:
    section = model_of(field.annotation)
    if field.is_required():
        return "" if section is not None else "  (required)"
    value = to_jsonable_python(field.get_default(call_default_factory=True))
    if section is not None and value is not None:  # the defaults are those of its fields
        return ""
    return f"  (default: {yaml.safe_dump(value, default_flow_style=True).removesuffix('...').strip().removesuffix('...').strip()})"
