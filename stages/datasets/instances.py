"""The instances of an image, each listed once, however many questions it answers."""

from __future__ import annotations

from collections.abc import Sequence

from stages.datasets.base import Instance


def numbers(found: Sequence[Instance], instances: list[Instance]) -> tuple[int, ...]:
    """Numbers of a question's instances among the image's, to which those that no earlier question has are added."""
    earlier = {instance: number for number, instance in reversed(list(enumerate(instances)))}
    given = []
    for instance in found:
        if instance not in earlier:
            instances.append(instance)
        given.append(earlier.get(instance, len(instances) - 1))
    return tuple(given)
