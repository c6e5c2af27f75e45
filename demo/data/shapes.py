"""The demo's object classes: parametric outlines in a unit box, y pointing down."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """A filled polygon [N, 2] of x, y in unit coordinates, and its brightness relative to the object's colour."""

    points: Points
    tone: float = 1.0


def _polygon(*points: tuple[float, float]) -> Points:
    return np.asarray(points, dtype=np.float32)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _arc(cx: float, cy: float, rx: float, ry: float, start: float = 0, stop: float = 360, count: int = 28) -> Points:
    angles = np.deg2rad(np.linspace(start, stop, count, endpoint=stop - start < 360))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1).astype(np.float32)


def _band(cx: float, cy: float, inner: float, outer: float, start: float, stop: float, squeeze: float = 1.0) -> Points:
    """A thick arc; `squeeze` scales its height. Angles in degrees, clockwise on screen."""
    outside = _arc(cx, cy, outer, outer * squeeze, start, stop, 24)
    inside = _arc(cx, cy, inner, inner * squeeze, start, stop, 24)
    return np.concatenate([outside, inside[::-1]])


def _mug(rng: np.random.Generator) -> list[Part]:
    height = rng.uniform(0.38, 0.5)
    handle = _band(0.24, 0.0, 0.12, 0.24, -82, 82, 1.1)
    return [Part(handle, 0.85), Part(_box(-0.4, -height, 0.26, height)), Part(_arc(-0.07, -height, 0.33, 0.09), 0.6)]


def _key(rng: np.random.Generator) -> list[Part]:
    bow = _band(-0.31, 0.0, 0.08, rng.uniform(0.2, 0.24), 0, 359.9)
    teeth = [Part(_box(x, 0.0, x + 0.09, rng.uniform(0.17, 0.26))) for x in (0.17, 0.33)]
    return [Part(bow), Part(_box(-0.14, -0.075, 0.46, 0.075)), *teeth]


def _leaf(rng: np.random.Generator) -> list[Part]:
    width = rng.uniform(0.24, 0.34)
    t = np.linspace(0, np.pi, 18)
    upper = np.stack([-0.5 * np.cos(t) * 0.84 + 0.08, -width * np.sin(t) ** 1.4], axis=1)
    lower = np.stack([0.5 * np.cos(t) * 0.84 + 0.08, width * np.sin(t) ** 1.4], axis=1)
    blade = np.concatenate([upper, lower]).astype(np.float32)
    vein = _polygon((-0.34, -0.015), (0.4, -0.01), (0.4, 0.01), (-0.34, 0.015))
    return [
        Part(_polygon((-0.55, -0.03), (-0.3, -0.03), (-0.3, 0.03), (-0.55, 0.03)), 0.7),
        Part(blade),
        Part(vein, 0.65),
    ]


def _fish(rng: np.random.Generator) -> list[Part]:
    height = rng.uniform(0.2, 0.3)
    tail = _polygon((0.2, 0.0), (0.52, -0.26), (0.44, 0.0), (0.52, 0.26))
    fin = _polygon((-0.12, -height * 0.8), (0.14, -height - 0.14), (0.16, -height * 0.6))
    return [
        Part(tail, 0.8),
        Part(fin, 0.8),
        Part(_arc(-0.1, 0, 0.4, height)),
        Part(_arc(-0.32, -0.06, 0.04, 0.04, count=10), 0.2),
    ]


def _star(rng: np.random.Generator) -> list[Part]:
    tips = int(rng.integers(5, 7))
    angles = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    radii = np.where(np.arange(2 * tips) % 2 == 0, 0.52, rng.uniform(0.22, 0.28))
    return [Part(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1).astype(np.float32))]


def _house(rng: np.random.Generator) -> list[Part]:
    eaves = rng.uniform(-0.15, -0.05)
    roof = _polygon((-0.5, eaves), (0.0, -0.52), (0.5, eaves))
    walls = _box(-0.4, eaves, 0.4, 0.46)
    return [
        Part(walls),
        Part(roof, 0.65),
        Part(_box(-0.1, 0.12, 0.1, 0.46), 0.5),
        Part(_box(0.18, 0.02, 0.33, 0.17), 1.5),
    ]


def _tree(rng: np.random.Generator) -> list[Part]:
    step = rng.uniform(0.24, 0.3)
    tiers = [
        Part(
            _polygon((-0.2 - 0.07 * i, -0.22 + step * i), (0, -0.56 + step * i), (0.2 + 0.07 * i, -0.22 + step * i)),
            1.0 - 0.08 * i,
        )
        for i in range(3)
    ]
    return [Part(_box(-0.07, 0.2, 0.07, 0.54), 0.45), *tiers[::-1]]


def _umbrella(rng: np.random.Generator) -> list[Part]:
    canopy = _arc(0.0, 0.0, 0.5, rng.uniform(0.36, 0.48), 180, 360, 22)
    scallop = np.stack([np.linspace(0.5, -0.5, 25), -0.07 * np.abs(np.sin(np.linspace(0, 4 * np.pi, 25)))], axis=1)
    crook = _band(0.09, 0.4, 0.055, 0.125, 0, 180)
    dome = np.concatenate([canopy, scallop.astype(np.float32)])
    return [Part(_box(-0.035, -0.05, 0.035, 0.42), 0.5), Part(crook, 0.5), Part(dome)]


def _bottle(rng: np.random.Generator) -> list[Part]:
    half = rng.uniform(0.15, 0.21)
    body = _polygon(
        (-0.07, -0.4),
        (0.07, -0.4),
        (0.08, -0.2),
        (half, -0.04),
        (half, 0.52),
        (-half, 0.52),
        (-half, -0.04),
        (-0.08, -0.2),
    )
    return [Part(body), Part(_box(-0.095, -0.52, 0.095, -0.4), 0.5), Part(_box(-half, 0.1, half, 0.34), 1.45)]


def _ball(rng: np.random.Generator) -> list[Part]:
    tilt = rng.uniform(-0.12, 0.12)
    seam = _polygon((-0.49, -0.05), (0.0, tilt - 0.04), (0.49, -0.05), (0.49, 0.05), (0.0, tilt + 0.06), (-0.49, 0.05))
    return [Part(_arc(0, 0, 0.5, 0.5, count=40)), Part(seam, 1.5)]


def _heart(rng: np.random.Generator) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 33
    return [Part(np.stack([0.5 * np.sin(t) ** 3, y * rng.uniform(0.92, 1.06)], axis=1).astype(np.float32))]


def _car(rng: np.random.Generator) -> list[Part]:
    roof = rng.uniform(-0.28, -0.22)
    cabin = _polygon((-0.3, -0.02), (-0.2, roof), (0.14, roof), (0.28, -0.02))
    wheels = [Part(_arc(x, 0.18, 0.11, 0.11, count=18), 0.25) for x in (-0.27, 0.27)]
    hull = _polygon((-0.52, -0.02), (0.42, -0.03), (0.53, 0.06), (0.53, 0.18), (-0.52, 0.18))
    return [Part(cabin, 1.45), Part(hull), *wheels]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    cap = _arc(0.0, 0.02, 0.48, rng.uniform(0.42, 0.52), 180, 360, 22)
    spots = [Part(_arc(x, y, 0.055, 0.055, count=12), 1.6) for x, y in ((-0.22, -0.14), (0.04, -0.27), (0.24, -0.1))]
    return [Part(_polygon((-0.12, 0.0), (0.12, 0.0), (0.17, 0.5), (-0.17, 0.5)), 1.5), Part(cap), *spots]


def _boat(rng: np.random.Generator) -> list[Part]:
    sail = _polygon((0.04, -0.54), (0.04, 0.08), (rng.uniform(0.34, 0.42), 0.08))
    jib = _polygon((-0.04, -0.42), (-0.04, 0.08), (-0.34, 0.08))
    hull = _polygon((-0.52, 0.16), (0.52, 0.16), (0.34, 0.44), (-0.34, 0.44))
    return [Part(_box(-0.04, -0.54, 0.04, 0.18), 0.45), Part(sail, 1.4), Part(jib, 1.25), Part(hull)]


def _lamp(rng: np.random.Generator) -> list[Part]:
    top = rng.uniform(0.14, 0.22)
    shade = _polygon((-top, -0.5), (top, -0.5), (0.36, -0.04), (-0.36, -0.04))
    return [Part(_box(-0.045, -0.05, 0.045, 0.42), 0.5), Part(_arc(0, 0.46, 0.26, 0.08, count=20), 0.5), Part(shade)]


def _hat(rng: np.random.Generator) -> list[Part]:
    crown = rng.uniform(0.22, 0.28)
    top = _polygon((-crown, 0.12), (-crown * 0.9, -0.3), (crown * 0.9, -0.3), (crown, 0.12))
    return [Part(_arc(0, 0.17, 0.52, 0.14)), Part(top), Part(_box(-crown, 0.0, crown, 0.1), 0.45)]


OUTLINES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "mug": _mug, "key": _key, "leaf": _leaf, "fish": _fish, "star": _star, "house": _house,
    "tree": _tree, "umbrella": _umbrella, "bottle": _bottle, "ball": _ball, "heart": _heart, "car": _car,
    "mushroom": _mushroom, "boat": _boat, "lamp": _lamp, "hat": _hat,
}  # fmt: skip
FREELY_TURNED = frozenset({"key", "leaf", "fish", "star", "ball", "bottle"})


def outline(name: str, rng: np.random.Generator) -> list[Part]:
    """One drawing of a class, back to front; most classes stay upright within 20 degrees, some may have any orientation."""
    limit = 180.0 if name in FREELY_TURNED else 20.0
    angle = np.deg2rad(rng.uniform(-limit, limit))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=np.float32)
    if rng.random() < 0.5:
        turn[:, 0] = -turn[:, 0]
    return [Part(part.points @ turn.T, part.tone) for part in OUTLINES[name](rng)]
