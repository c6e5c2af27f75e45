"""A digest of what the files of a whole data set say of one image: editing what they say of other images does not change it."""

from __future__ import annotations

import hashlib
import marshal
from dataclasses import dataclass, field
from typing import Any

from stages.images import ImageFailure

_MARSHAL = 2
"""The last version of marshal whose bytes depend only on the values: later ones also write which objects are shared."""


def digest_of(*parts: Any) -> bytes:
    """sha256 of JSON values and tuples; how a file spells them, such as 1.50 for 1.5, does not matter.

    The order of an object's keys matters. Raises ImageFailure where lists or objects are nested too deeply.
    """
    try:
        return hashlib.sha256(marshal.dumps(parts, _MARSHAL)).digest()
    except ValueError as error:
        raise ImageFailure(f"lists or objects are nested too deeply: {error}") from error


def content_of(*parts: Any) -> str:
    """The ``content`` of a :class:`stages.datasets.base.Source`: :func:`digest_of` in hexadecimal digits."""
    return digest_of(*parts).hex()


@dataclass(slots=True)
class Rows:
    """The rows of a file that are about one picture.

    path: of the picture. places: number, first byte and length of each row. digest: of what the rows say, in file order.
    """

    path: str
    places: list[tuple[int, int, int]] = field(default_factory=list)
    digest: bytes = b""

    def add(self, number: int, start: int, length: int, said: Any) -> None:
        """Add a row. said: the part of it that decides the annotation."""
        self.places.append((number, start, length))
        self.digest = digest_of(self.digest, said)
