"""Surfaces and backgrounds of the demo scenes: stripes, dots, checks, grain, shading."""

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
TEXTURES = ("plain", "striped", "dotted", "chequered", "grainy")


def surface(texture: str, height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Brightness factors around 1, float32 [height, width], of an object's surface with a soft light across it."""
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    light = rng.uniform(0, 2 * np.pi)
    reach = max(height, width)
    factors = (
        1 + rng.uniform(0.1, 0.35) * ((xs - width / 2) * np.cos(light) + (ys - height / 2) * np.sin(light)) / reach
    )
    period = max(5.0, reach * rng.uniform(0.1, 0.22))
    angle = rng.uniform(0, np.pi)
    u = (xs * np.cos(angle) + ys * np.sin(angle)) / period
    v = (ys * np.cos(angle) - xs * np.sin(angle)) / period
    depth = rng.uniform(0.15, 0.3)
    if texture == "striped":
        factors -= depth * (u % 1 < 0.45)
    elif texture == "dotted":
        factors += depth * ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.08)
    elif texture == "chequered":
        factors -= depth * ((np.floor(u) + np.floor(v)) % 2)
    elif texture == "grainy":
        grain = rng.standard_normal((height // 2 + 1, width // 2 + 1), dtype=np.float32)
        factors += 0.5 * depth * cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(factors, np.float32)


def background(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """A muted, uneven background, float32 [height, width, 3] in 0..255: colour drift, soft blotches and a faint weave."""
    base = rng.uniform(70, 215) + rng.uniform(-16, 16, 3)
    corners = base + rng.uniform(-28, 28, (2, 2, 1)) + rng.uniform(-7, 7, (2, 2, 3))
    drift = cv2.resize(corners.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    ground: Pixels = np.asarray(drift, np.float32)
    cells = int(rng.integers(8, 40))
    blotches = rng.standard_normal((cells, cells), dtype=np.float32) * np.float32(rng.uniform(3, 14))
    ground += np.asarray(cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)[..., None]
    if rng.random() < 0.5:
        period, angle = rng.uniform(6, 40), rng.uniform(0, np.pi)
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
        weave = np.sin((xs * np.cos(angle) + ys * np.sin(angle)) * np.float32(2 * np.pi / period))
        ground += np.float32(rng.uniform(2, 9)) * weave[..., None]
    return ground


def add_noise(pixels: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Camera-like noise (one draw for luminance), then uint8."""
    noise = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * np.float32(rng.uniform(2, 9))
    return np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8)
