"""Pictures that are asked about and that the data set that holds them does not list, because its ``only`` leaves them out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config import InputError, Settings
from pipeline.runs import Run
from pipeline.upstream import commits_of, known_sources
from stages.datasets.params import RUN, ImagesOptions
from stages.names import SplitRef
from stages.train.draw import samples_of
from store import Split
from store.format.schema import ABSENT
from store.stream.mixture import MixtureSchedule


def require_listed(settings: Settings, splits: Sequence[SplitRef]) -> None:
    """Raise InputError, naming what to add to ``only``, where the holder does not list every picture of a split."""
    for split in splits:
        lacking = _unlisted(settings, split)
        if len(lacking):
            holder = settings.data[split.dataset].images
            raise InputError(
                f"{split}: {len(lacking)} of {len(known_sources(settings, split))} pictures are not listed by {holder}, such as "
                f"{_name(settings, split, lacking[0])}; to ask about all of them add {split} to data.{holder}.only, then run: "
                f"{_commands(settings)} (a run that is already trained then counts as another one, as its data changed)"
            )


def require_any_listed(settings: Settings, run: Run, splits: Sequence[SplitRef]) -> bool:
    """Raise InputError, naming what to add to ``only``, if a run would train on a split without a listed picture.

    Returns:
        Whether there are pictures that are not listed, so that :func:`require_drawn` has to look at the draw.
    """
    if not run.params.mixture:
        require_listed(settings, splits)
        return False
    any_lacks = False
    for split in splits:
        holder, lacking = settings.data[split.dataset].images, len(_unlisted(settings, split))
        any_lacks |= lacking > 0
        if lacking and lacking == len(known_sources(settings, split)):
            add = "" if _lists(settings, holder, run) else f"add {RUN + run.asked!r} to data.{holder}.only, then "
            raise InputError(
                f"train {run.name}: no picture of {split} is listed by {holder}; {add}run: {_commands(settings)}"
            )
    return any_lacks


def require_drawn(
    settings: Settings, run: Run, splits: Mapping[str, Split], without: Mapping[str, Sequence[int]]
) -> None:
    """Raise InputError where a training would draw pictures that are not listed: it names them, and the commands that add them.

    Args:
        splits: those that it trains on, opened for it. without: split -> image_index of pictures that are left out.
    """
    from stages.train.run import batches, system_class

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    schedule = batches(run.params, system_class(run.system), splits, 0, processes, without).stream.schedule
    assert isinstance(schedule, MixtureSchedule)
    lacking = schedule.unlisted(samples_of(schedule, run.params, run.system))
    if not lacking:
        return
    named, first = next(iter(lacking)), next(iter(lacking.values()))[0]
    counts = ", ".join(f"{len(images)} of {name}" for name, images in lacking.items())
    holders = dict.fromkeys(settings.data[SplitRef.of(name).dataset].images for name in lacking)
    add = [name for name in holders if not _lists(settings, name, run)]
    section = f"runs.{run.asked}" if run.declared else "train"
    more = ("--set", f"{section}.batch_size={run.params.batch_size * processes}") if processes > 1 else ()
    raise InputError(
        f"train {run.name}: it draws pictures that are not listed: {counts}, such as {_name(settings, SplitRef.of(named), first)}; "
        f"no others are drawn instead. To have them{''.join(f', add {RUN + run.asked!r} to data.{name}.only' for name in add)}"
        f"{', then' if add else ''} run: {_commands(settings, *more)}"
    )


def _lists(settings: Settings, holder: str, run: Run) -> bool:
    data = settings.data[holder]
    return isinstance(data, ImagesOptions) and run.asked in data.only_runs


def _unlisted(settings: Settings, split: SplitRef) -> Sequence[int]:
    """image_index of the pictures that are not listed; none where the split is not indexed."""
    if settings.holder(split.dataset) is None:
        return ()
    status = [each for commit in commits_of(settings, split, "images") or () for each in commit.status]
    return np.flatnonzero(np.array(status, str) == ABSENT).tolist()  # type: ignore[no-any-return]


def _name(settings: Settings, split: SplitRef, image: int) -> str:
    return f"{known_sources(settings, split)[image][0]} of {split}"


def _commands(settings: Settings, *words: str) -> str:
    return f"{settings.command(*words, 'index')}, then {settings.command('extract')}"
