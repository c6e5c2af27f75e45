"""The instances of an image, each listed once, however many questions it answers."""

from __future__ import annotations

from collections.abc import Sequence

from stages.datasets.base import Instance


def numbers(found: Sequence[Instance], instances: list[Instance]) -> tuple[int, ...]:
    """Indices of a question's instances in the image's list, to which instances that no earlier question has are appended."""
    earlier = {instance: number for number, instance in reversed(list(enumerate(instances)))}
    given = []
    for instance in found:
        if instance not in earlier:
            instances.append(instance)
        given.append(earlier.get(instance, len(instances) - 1))
    return tuple(given)
