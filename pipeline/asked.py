"""The image that a trained system is asked about: one of the store, or a new picture."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import InputError, Settings
from pipeline.one_picture import open_picture
from pipeline.runs import Run
from pipeline.trained import open_mean, proposer_of
from stages.datasets import FORMATS
from stages.datasets.params import DataParams
from stages.images import ImageFailure, read_image
from stages.means import mean_column
from stages.names import SplitRef, did_you_mean
from stages.photographs import GoneError, photograph
from store import Split, open_split
from store.errors import StoreError
from store.format.names import with_proposer

_SUGGEST_AMONG = 10_000
"""With more image_ids than this no other one is suggested, because comparing them takes long."""


@dataclass(frozen=True)
class Asked:
    """An image that can be asked about.

    name: as it was given. sha256: of its file. split, image_index: where its columns are. mean: float64 [D], to be subtracted from
    its embeddings; None where that is done already. targets: rows of the questions that the store has about it. pixels: uint8
    [H, W, 3] RGB, EXIF-oriented; None where the file is gone, for the reason ``gone``.
    """

    name: str
    sha256: str
    split: Split
    image_index: int
    mean: npt.NDArray[np.float64] | None
    targets: Sequence[Mapping[str, Any]]
    pixels: npt.NDArray[np.uint8] | None
    gone: str = ""


def find_image(settings: Settings, run: Run, image: str, columns: Collection[str]) -> Asked:
    """The image that a text names, with what an answer is made from: read from the store, or computed once and kept in the cache.

    Args:
        image: ``DATASET/SPLIT/IMAGE_ID``, with a split of the params, or else the path of a picture.
        columns: what an answer is made from (:func:`stages.train.ask.columns_of_image`).

    Raises:
        InputError: there is no such image, or it cannot be read.
        StoreError: a column of a stored image is not computed.
        WeightsError: a checkpoint that a new picture needs is not here.
    """
    split = split_of(settings, image)
    return _new(settings, run, image, columns) if split is None else _stored(settings, run, split, image, columns)


def require_image(settings: Settings, image: str) -> None:
    """Raise InputError where a text names neither an image of the store nor a picture that can be read; computes nothing."""
    split = split_of(settings, image)
    if split is None:
        _read(settings, image)
    else:
        _number_in(open_split(settings.store_path, split.dataset, split.split, columns="images"), split, image)


def split_of(settings: Settings, image: str) -> SplitRef | None:
    """The split of a stored image; None for the path of a picture."""
    return next((split for split in settings.splits if image.startswith(f"{split}/")), None)


def _stored(settings: Settings, run: Run, where: SplitRef, image: str, columns: Collection[str]) -> Asked:
    asks = FORMATS[settings.data[where.dataset].format].annotated
    names = [*sorted(columns), *(["targets"] if asks else [])]
    split = open_split(settings.store_path, where.dataset, where.split, columns=names, proposer=proposer_of(run))
    number = _number_in(split, where, image)
    (row,) = split[number].rows("images")
    targets = split[number].rows("targets") if asks and split.column("targets").is_ok(number) else ()
    holder = settings.data[where.dataset].images
    try:
        pixels = photograph(settings.folders(holder), row, settings.data[holder].max_pixels)
    except GoneError as error:
        return Asked(image, row["sha256"], split, number, None, targets, None, str(error))
    return Asked(image, row["sha256"], split, number, None, targets, pixels)


def _new(settings: Settings, run: Run, image: str, columns: Collection[str]) -> Asked:
    from stages.train.ask import uncentered

    data, pixels = _read(settings, image)
    proposer, mean = proposer_of(run), None
    for name in columns:
        if name != uncentered(name):
            encoder = f"{proposer}/{name.rpartition('/')[2]}"
            mean = open_mean(settings, mean_column(str(run.params.mean), encoder)).array(0)
    read = [uncentered(name) for name in columns if name != "images"]
    whole = [with_proposer(name, proposer) if proposer else name for name in read]
    split = open_picture(settings, data, whole, proposer)
    return Asked(image, hashlib.sha256(data).hexdigest(), split, 0, mean, (), pixels)


def _read(settings: Settings, image: str) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """A picture's file, and its pixels."""
    path = Path(image)
    if not path.exists():
        raise InputError(
            f"--image: found no file {image!r}, expected a picture, or an image of the store as DATASET/SPLIT/IMAGE_ID with one of "
            f"the splits {', '.join(map(str, settings.splits))}{_such_as(settings)}"
        )
    try:
        pixels = read_image(path, DataParams.model_fields["max_pixels"].default)
    except ImageFailure as failure:
        raise InputError(f"--image: {image}: {failure}") from failure
    return path.read_bytes(), pixels


def _such_as(settings: Settings) -> str:
    """Text that names a stored image as an example: ``, such as demo/val/0003``; empty where no split is indexed."""
    for split in settings.splits:
        with contextlib.suppress(StoreError):
            known = open_split(settings.store_path, split.dataset, split.split, columns="images").image_ids
            if known:
                return f", such as {split}/{known[0]}"
    return ""


def _number_in(split: Split, where: SplitRef, image: str) -> int:
    """The image_index of the image that a text names."""
    image_id = image.removeprefix(f"{where}/")
    try:
        return split[image_id].image_index
    except KeyError:
        known = split.image_ids
        meant = did_you_mean(image_id, known if len(known) <= _SUGGEST_AMONG else ())
        file = f"; the file of that name is ./{image}" if Path(image).is_file() else ""
        raise InputError(
            f"--image: {where} has no image {image_id!r}{meant}, expected one of its {len(known)} image_ids, such as "
            f"{', '.join(known[:3])}{file}"
        ) from None
