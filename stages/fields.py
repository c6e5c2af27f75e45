"""Kinds of values that parameters have, and the base of their models."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"found {value!r:.80}, expected 64 hexadecimal digits, as the verb import prints them")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["float32", "float16", "bfloat16"]
Dense = Literal["float16", "int8"]
"""How dense features are stored (:mod:`stages.dense`)."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""A name that is a key of the params. It has no dot: ``--set`` and DVC take a dot for the next key."""
AtOnce = Annotated[int | None, Field(ge=1), BeforeValidator(lambda value: None if value == 0 else value)]
"""A batch size, or null for the fixed size of the kind of device; 0, in older files, means null."""

Sha256 = Annotated[str, AfterValidator(_sha256)]
"""Digest of an archive of imported masks or vectors."""


class Params(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
