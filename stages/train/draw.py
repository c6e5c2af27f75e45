"""Which samples of a mixture a training takes, as its parameters decide it. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from stages.train.params import TrainParams
from store.stream.mixture import Group, MixtureSchedule


def groups_of(params: TrainParams) -> dict[str, Group]:
    """The groups of a mixture by name."""
    return {name: Group(group.weight, group.of, group.absent) for name, group in params.mixture.items()}


def epoch_length(params: TrainParams, processes: int = 1) -> int:
    """Samples of an epoch of a mixture, over all processes."""
    return params.epoch_samples or params.max_steps * params.batch_size * params.accumulation * processes


def samples_of(schedule: MixtureSchedule, params: TrainParams, system: str) -> Iterator[tuple[int, int]]:
    """Epoch and number of each sample that a training takes, over all processes; some may come twice.

    First the samples of ELISA's ``align``: whole epochs from the first one on. Then as the Trainer counts: an update takes
    ``accumulation`` batches, and the last update of an epoch the batches that are left.
    """
    if system == "elisa" and params.elisa.align is not None:
        for epoch in range(params.elisa.align.epochs):
            yield from ((epoch, number) for number in range(schedule.samples))
    batches, size = len(schedule), schedule.batch_size * schedule.world_size
    if not batches:
        return
    updates = -(-batches // params.accumulation)
    whole, rest = divmod(params.max_steps or params.epochs * updates, updates)
    for epoch in range(whole + (rest > 0)):
        taken = batches if epoch < whole else rest * params.accumulation
        yield from ((epoch, number) for number in range(min(taken * size, schedule.samples)))
