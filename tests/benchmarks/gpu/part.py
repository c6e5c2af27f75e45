"""What a part of ``make check-gpu`` is: a function in a process of its own, what it needs, and what its figures have to reach."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PACKAGE = __package__
Found = dict[str, Any]
"""Figures by name (with the unit): numbers, yes or no as bool, or text.

Two names are no figures: ``made`` is a folder that later parts read, ``timed`` a list of lines for ``timed`` in
pipeline/scale/profiles.yaml, without card and source.
"""


@dataclass(frozen=True)
class Goal:
    """What a figure has to reach.

    Args:
        at_least, at_most: bounds; True for a yes-or-no figure.
        aim: a better value that is desired but not required.
        everywhere: whether it has to hold in a rehearsal, too: a rehearsal compares results, but measures no time or memory.
    """

    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    everywhere: bool = False

    def reached(self, value: Any) -> bool:
        """Whether a figure is within the bounds; anything but a number is not."""
        if not isinstance(value, int | float) or math.isnan(value):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def aimed(self, value: Any) -> bool:
        """Whether a figure reaches the aim."""
        if self.aim is None:
            return False
        return bool(value >= self.aim if self.at_least is not None else value <= self.aim)

    def __str__(self) -> str:
        if self.at_least is True:
            return "yes"
        word, bound = ("at least", self.at_least) if self.at_least is not None else ("at most", self.at_most)
        return f"{word} {bound:g}" + (f", aim {self.aim:g}" if self.aim is not None else "")


YES = Goal(at_least=True, everywhere=True)


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        name: name in ``--only`` and in the table.
        does: ``module:function``, the module as Python imports it. It gets what ``real`` or ``tiny`` say and, where it has an
            argument of that name, ``device``, ``folder`` (path of the work folder) and ``earlier`` (figures of the parts in
            ``after``).
        about: what is measured, for the table.
        real, tiny: further arguments on a GPU, and in a rehearsal on a processor. ``tiny`` None: CUDA itself is looked at.
        goals: figure -> goal.
        gpu_gb: 1e9 bytes of the GPU's memory that it needs.
        seconds: what it takes on an H200; ``--budget`` starts no part that would not end in time.
        packages: packages that must be installed. after: names of parts that run before it.
    """

    name: str
    does: str
    about: str
    real: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Any] | None = field(default_factory=dict)
    goals: Mapping[str, Goal] = field(default_factory=dict)
    gpu_gb: float = 4
    seconds: float = 30
    packages: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def function(self) -> Callable[..., Found]:
        """What ``does`` names."""
        module, _, name = self.does.partition(":")
        found: Callable[..., Found] = getattr(importlib.import_module(module), name)
        return found

    def find(self, arguments: Mapping[str, Any], device: str, folder: str, earlier: Mapping[str, Found]) -> Found:
        """The figures, measured in this process."""
        function, given = self.function(), {"device": device, "folder": folder, "earlier": earlier}
        wanted = inspect.signature(function).parameters
        return function(**arguments, **{name: value for name, value in given.items() if name in wanted})
