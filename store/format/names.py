"""Names of columns. A column made from a proposer's masks has the proposer in its name; readers may leave the proposer out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..errors import StoreError

_PROPOSER = {"masks": (1, 2), "mask_embeddings": (1, 3), "match": (1, 3), "centered": (3, 5)}
"""First part of a name -> which part the proposer is, and how many parts the whole name has."""


def proposer_of(column: str) -> str | None:
    """``sam_vit_h`` of ``masks/sam_vit_h`` and ``mask_embeddings/sam_vit_h/dinov2_vitl14``; None for a name without one."""
    parts = column.split("/")
    at, length = _PROPOSER.get(parts[0], (0, 0))
    return parts[at] if len(parts) == length else None


def without_proposer(column: str) -> str:
    """``masks`` of ``masks/sam_vit_h``, ``match/targets`` of ``match/sam_vit_h/targets``; any other name as it is."""
    parts = column.split("/")
    at, length = _PROPOSER.get(parts[0], (0, 0))
    return "/".join([*parts[:at], *parts[at + 1 :]]) if len(parts) == length else column


def with_proposer(name: str, proposer: str) -> str:
    """The inverse of :func:`without_proposer`; a name that has no proposer, such as ``instances``, as it is."""
    parts = name.split("/")
    at, length = _PROPOSER.get(parts[0], (0, 0))
    return "/".join([*parts[:at], proposer, *parts[at:]]) if len(parts) == length - 1 else name


def is_of_pictures(column: str) -> bool:
    """Whether a column is made of pixels alone, so that it lies with the data set that holds the images."""
    parts = column.split("/")
    return parts[0] in _OF_PICTURES or (parts[0] == "centered" and len(parts) > 2 and parts[2] == "mask_embeddings")


_OF_PICTURES = ("masks", "sam_features", "image_features", "mask_embeddings")


def proposers_of(columns: Iterable[str]) -> tuple[str, ...]:
    """The proposers in the names of columns, each once, in order of first appearance."""
    return tuple(dict.fromkeys(found for found in map(proposer_of, columns) if found is not None))


def both_names(columns: Iterable[str]) -> list[str]:
    """The names by which columns may be asked for, those without a proposer first: for a message that suggests a name."""
    known = list(columns)
    return list(dict.fromkeys([*map(without_proposer, known), *known]))


def find_name(name: str, columns: Iterable[str], proposer: str | None = None) -> str | None:
    """The column that a name stands for: the one of that name, or else the only one that has it once the proposer is left out.

    None where there is no such column.

    Args:
        proposer: whose column a name without a proposer stands for.

    Raises:
        StoreError: there are several; names them.
    """
    known = list(columns)
    if name in known:
        return name
    found = [column for column in known if without_proposer(column) == name]
    if proposer is not None:
        found = [column for column in found if proposer_of(column) == proposer]
    if len(found) > 1:
        raise StoreError(
            f"{name}: there are {', '.join(found)}; name one of them, or choose the proposer of all names: open the split with "
            f"proposer={proposer_of(found[0])!r}",
            reason="several proposers",
            found=found,
            expected=name,
        )
    return found[0] if found else None


def meant(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` for a message, where a known name is close enough to an unknown one; else nothing."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {found[0]!r}? " if found else ""
