"""Which samples of a split can be read: those of its images that are ok in every column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import FailedImageError
from ..read.open_columns import OpenColumns

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SampleSet:
    """The samples of a split that can be read: image_index and number of the target (-1: the image), int64 [n] each.

    failed, absent: image_index and reason of the images that are left out because one of the columns failed for them, or because
    they have no annotation and a column is made from it.
    """

    image: I64
    target: I64
    failed: tuple[tuple[int, str], ...] = ()
    absent: tuple[tuple[int, str], ...] = ()


def sample_set(
    split: OpenColumns,
    columns: Sequence[str],
    per_target: bool,
    failed: str,
    without: Sequence[int] = (),
    only: Sequence[int] | None = None,
) -> SampleSet:
    """The samples of a split that are ok in every column.

    Removed images are no longer part of the data set. Images without annotation are left out where a column is made from
    it, and listed as absent; they did not fail.

    Args:
        failed: ``raise`` when an image failed in one of the columns, or ``skip`` it and list it with its reason.
        without: image_index of further images to leave out.
        only: image_index of the images to take, in their order; None: all.
    """
    if failed not in ("raise", "skip"):
        raise ValueError(f"found failed={failed!r}, expected raise or skip")
    names = list(dict.fromkeys(["images", *columns, *(["targets"] if per_target else [])]))
    good = np.ones(len(split), bool)
    bad: dict[int, str] = {}
    absent: dict[int, str] = {}
    for name in names:
        found = split.column(name).status(len(split))
        good &= found.ok
        for image, reason in found.failed.items():
            bad.setdefault(image, f"{name}: {reason}")
        absent |= found.absent
    images_asked = len(split)
    if only is not None:
        asked = set(only)
        images_asked = len(asked)
        bad, absent = ({image: why for image, why in each.items() if image in asked} for each in (bad, absent))
    left_out = tuple(sorted(absent.items()))
    if bad and failed == "raise":
        image, reason = next(iter(bad.items()))
        raise FailedImageError(
            f"{split.name}: {len(bad)} of {images_asked} images failed, such as image {image}, {reason}; "
            'to go on without them: failed="skip" (stream.failed lists them)',
            place=split.name,
            image_index=image,
            reason=reason,
            found=bad,
        )
    good[np.array(without, np.int64)] = False
    images = np.flatnonzero(good)
    if only is not None:
        chosen = np.array(only, np.int64)
        images = chosen[good[chosen]]
    if not per_target:
        return SampleSet(images, np.full(len(images), -1, np.int64), tuple(sorted(bad.items())), left_out)
    counts = split.column("targets").counts()[images]
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return SampleSet(np.repeat(images, counts), number, tuple(sorted(bad.items())), left_out)
