"""Masks that another program made, from the archive that ``python cli.py import`` wrote. The pixels are not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stages.imported.archive import MASKS, Archive
from stages.proposers import ROWS, Found, Memo, Pixels
from stages.proposers.params import ImportedParams


def build(
    params: ImportedParams, paths: Mapping[str, Path], device: str, points_per_batch: int | None, shared: Memo
) -> Imported:
    """A :class:`stages.proposers.Proposer`."""
    (name,) = params.weights
    return Imported(Archive(paths[name], MASKS))


class Imported:
    """Looks masks up by the sha256 of the picture's file."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    @staticmethod
    def prepare(image: Pixels) -> None:
        """Does nothing, as no pixel is used."""

    def propose(self, images: Sequence[None], memo: Memo) -> Iterator[Found]:
        """The masks of each picture; a picture that the archive does not have is a failure with its reason."""
        for row in memo[ROWS]:
            yield Found(partial(self._records, row["sha256"]), self.archive.trouble(row["sha256"]))

    def _records(self, sha256: str) -> list[dict[str, Any]]:
        return [record for record in self.archive.records(sha256) if record is not None]
