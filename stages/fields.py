"""Kinds of values that parameters have, and the base of their models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "float16", "bfloat16"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""A name that is a key of the params. It has no dot: ``--set`` and DVC take a dot for the next key."""
AtOnce = Annotated[int | None, Field(ge=1), BeforeValidator(lambda value: None if value == 0 else value)]
"""A size of batches, or null for the one that is fixed for the kind of device; 0, as older files have it, is null."""


class Params(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
