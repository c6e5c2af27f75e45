"""Random numbers that their seeds decide, the same on every machine and in every release: a run's samples come from them.

Scalars, one at a time: :mod:`store.stream.schedule` has the same generator over arrays, for the order of a whole epoch."""

from __future__ import annotations

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


class Dice:
    """Numbers that the seeds decide, the same on every machine (SplitMix64; Steele, Lea, Flood 2014)."""

    def __init__(self, *seeds: int) -> None:
        self._state = 0
        for seed in seeds:
            self._state = _mixed(self._state ^ _mixed(seed & _MASK))

    def _next(self) -> int:
        self._state = (self._state + _GOLDEN) & _MASK
        return _mixed(self._state)

    def below(self, count: int) -> int:
        """A whole number, 0 <= n < count."""
        return (self._next() * count) >> 64

    def fraction(self) -> float:
        """A number, 0 <= x < 1."""
        return (self._next() >> 11) / 2**53

    def some(self, count: int, most: int) -> list[int]:
        """At most ``most`` different whole numbers below ``count``, in random order; all of them where there are no more."""
        moved: dict[int, int] = {}
        found = []
        for place in range(min(count, most)):
            other = place + self.below(count - place)
            found.append(moved.get(other, other))
            moved[other] = moved.get(place, place)
        return found


def _mixed(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
