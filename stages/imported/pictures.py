"""Finds the picture of the store that a file from another program means by a name. Names are only compared, never opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_COCO = re.compile(r"COCO_[a-z]+\d{4}_(\d{12})")
_SUFFIX = re.compile(r"\.(jpe?g|png|webp|bmp|tiff?)", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """A picture of the store: sha256 of its file, (height, width) of the upright picture in px, and its name for messages."""

    sha256: str
    size: tuple[int, int]
    name: str


@dataclass
class Pictures:
    """The pictures of some splits, by every name they may have: their id, and every end of their path, with or without suffix."""

    by_sha256: dict[str, Picture] = field(default_factory=dict)
    _named: dict[str, set[str]] = field(default_factory=dict)

    def add(self, picture: Picture, image_id: str, path: str) -> None:
        """Add a picture under its id and its path; the same file may be in several splits."""
        self.by_sha256.setdefault(picture.sha256, picture)
        for name in {*_ends(path), image_id}:
            self._named.setdefault(name, set()).add(picture.sha256)

    def find(self, name: str) -> list[Picture]:
        """The pictures that a name may mean: empty if unknown, several if ambiguous. The longest matching end of a path counts."""
        for end in _ends(name.replace("\\", "/")):
            if end in self._named:
                return [self.by_sha256[sha256] for sha256 in sorted(self._named[end])]
        return []


def _ends(path: str) -> Iterator[str]:
    """The ends of a path at a slash, the longest first, each with and without a picture's suffix; then its number in COCO."""
    parts = [part for part in path.split("/")[-32:] if part not in ("", ".")]
    for start in range(len(parts)):
        end = "/".join(parts[start:])
        yield end
        stem, dot, suffix = end.rpartition(".")
        if stem and _SUFFIX.fullmatch(dot + suffix):
            yield stem
    if parts and (match := _COCO.match(parts[-1])):
        yield match[1]
