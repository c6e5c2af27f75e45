"""Chooses the images that questions are made about, and assigns each to a split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stages.questions.params import ChooseParams, GroupParams


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image of a source split with annotated regions.

    Args:
        split: the source split, ``dataset/split``. image_index: its number there.
        path: relative to the folders of the data set that holds it. sha256: of the file.
        labels: the category of each instance, in the order of ``instances``. areas: of each instance, in px.
        absent: names of categories that the image does not show according to the annotation.
        incomplete: labels that the image may show more often than annotated.
    """

    split: str
    image_index: int
    image_id: str
    path: str
    sha256: str
    height_px: int
    width_px: int
    labels: tuple[str, ...]
    areas: tuple[int, ...]
    absent: tuple[str, ...] = ()
    incomplete: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Chosen:
    """A chosen candidate: its group, and those of its labels that are asked about, in the order of its instances."""

    candidate: Candidate
    group: str
    labels: tuple[str, ...]


def choose(candidates: Iterable[Candidate], params: ChooseParams) -> list[Chosen]:
    """Draw images for each group, by the number of categories that can be asked about (LLM-Seg paper, section 4).

    The draw is ordered by the digest of seed and image_id. So images added to the source later do not affect those drawn before
    them. A category that ``per_category`` chosen images show already is not asked about in further images.

    Returns:
        The chosen images in the order of the draw.
    """
    wanted = {group.name: group.images for group in params.groups}
    shown: Counter[str] = Counter()
    found = []
    for candidate in sorted(candidates, key=lambda each: _drawn(params.seed, each.image_id)):
        labels = [label for label in _askable(candidate, params) if not _has_enough(shown[label], params)]
        group = _group_of(len(labels), params.groups)
        if group is None or not wanted[group]:
            continue
        wanted[group] -= 1
        shown.update(labels)
        found.append(Chosen(candidate, group, tuple(labels)))
        if not any(wanted.values()):
            break
    return found


def shortfalls(chosen: Sequence[Chosen], params: ChooseParams) -> dict[str, tuple[int, int]]:
    """Group -> number of images that it has and that were asked for, for groups that have too few."""
    have = Counter(each.group for each in chosen)
    return {group.name: (have[group.name], group.images) for group in params.groups if have[group.name] < group.images}


def split_of(sha256: str, shares: Mapping[str, float]) -> str:
    """The split of an image, by the sha256 of its file: copies of a picture under two names are in the same split.

    Args:
        shares: split -> its share, in the order of the params. Another order gives other splits.
    """
    drawn = int.from_bytes(hashlib.sha256(f"split/{sha256}".encode()).digest()[:8]) / 2**64 * sum(shares.values())
    for split, share in shares.items():
        drawn -= share
        if drawn < 0:
            return split
    return list(shares)[-1]


def _drawn(seed: int, image_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{image_id}".encode()).digest()


def _askable(candidate: Candidate, params: ChooseParams) -> list[str]:
    """The categories of an image that are large enough and not dropped, in the order of their first instances."""
    areas: Counter[str] = Counter()
    for label, area in zip(candidate.labels, candidate.areas, strict=True):
        areas[label] += area
    least = max(1, params.min_area * candidate.height_px * candidate.width_px)
    return [label for label, area in areas.items() if area >= least and label not in params.drop]


def _has_enough(images: int, params: ChooseParams) -> bool:
    return params.per_category is not None and images >= params.per_category


def _group_of(categories: int, groups: Sequence[GroupParams]) -> str | None:
    for group in groups:
        fewest, most = group.categories
        if fewest <= categories and (most is None or categories <= most):
            return group.name
    return None
