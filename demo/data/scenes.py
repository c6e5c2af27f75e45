"""Seeded pictures of overlapping objects, with everything known about them. numpy and OpenCV only."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.data.shapes import OUTLINES, Part, outline
from demo.data.textures import (
    TEXTURES,
    add_noise,
    background,
    surface,
)

CLASSES: tuple[str, ...] = tuple(OUTLINES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "orange": (240, 130, 20),
    "yellow": (240, 210, 40),
    "green": (45, 155, 60),
    "teal": (20, 165, 165),
    "blue": (40, 80, 205),
    "purple": (125, 50, 170),
    "pink": (240, 120, 175),
    "brown": (115, 70, 35),
    "black": (38, 36, 40),
    "white": (246, 246, 242),
}
# What a thing is for or does, in words that name neither a class nor a colour.
USES: dict[str, tuple[str, ...]] = {
    "mug": ("holds a hot drink", "is what coffee is served in"),
    "key": ("opens a lock", "gets you through a closed door"),
    "leaf": ("falls from a branch in autumn", "catches sunlight for a plant"),
    "fish": ("lives and swims under water", "breathes through gills"),
    "star": ("shines in the night sky", "is put on top of a Christmas decoration"),
    "house": ("gives a family a place to live", "has a roof, a door and a window"),
    "tree": ("grows in a forest and gives wood", "has a trunk and gives shade"),
    "umbrella": ("keeps you dry when it rains", "is opened above the head in bad weather"),
    "bottle": ("stores a drink behind a cap", "is emptied by pouring from its narrow neck"),
    "ball": ("is thrown or kicked in games", "rolls away when you push it"),
    "heart": ("stands for love", "is drawn on a Valentine card"),
    "car": ("drives on roads", "has wheels and takes people to work"),
    "mushroom": ("grows in damp woods and may be poisonous", "is a fungus with a cap and a stem"),
    "boat": ("carries people across a lake", "is moved by wind in its sails"),
    "lamp": ("makes a dark room bright", "is switched on for reading at night"),
    "hat": ("is worn on the head", "protects the head from the sun"),
}
OBJECTS = (3, 9)  # intended number of objects in a scene; crowded scenes may keep fewer, but at least 3
SIDE_PX = (256, 512)
VISIBLE_FLOOR = 0.005  # the visible part of every object covers at least this fraction of the image
LEAST_SHOWN = 0.45  # and at least this fraction of the object
_BANDS = ((0.011, 0.0195), (0.025, 0.07), (0.07, 0.15))  # areas as fractions of the image: small, medium, large
_BAND_CHANCES = (0.29, 0.45, 0.26)


@dataclass(frozen=True)
class SceneObject:
    """One drawn object. `visible` is bool [H, W]; `polygons` are float32 [N, 2] x, y px of its whole (amodal) outline."""

    label: str
    colour: str
    texture: str
    uses: tuple[str, ...]
    polygons: tuple[NDArray[np.float32], ...]
    visible: NDArray[np.bool_]
    amodal_area_px: int


@dataclass(frozen=True)
class Scene:
    """A picture, uint8 [H, W, 3] RGB, and its objects from back to front."""

    seed: int
    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Sprite:
    """An outline at its final size, its alpha uint8 [h, w] and the offset px from its centre to alpha's corner."""

    label: str
    parts: tuple[Part, ...]
    alpha: NDArray[np.uint8]
    solid: NDArray[np.bool_]
    area_px: int
    corner: tuple[int, int]

    def window(self, x: int, y: int) -> tuple[slice, slice]:
        height, width = self.alpha.shape
        top, left = y + self.corner[1], x + self.corner[0]
        return slice(top, top + height), slice(left, left + width)


def scene(seed: int) -> Scene:
    """Draw scene number `seed`: the same number gives the same bytes with the same numpy and OpenCV."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(SIDE_PX[0], SIDE_PX[1] + 1, 2))
    placed: list[tuple[_Sprite, int, int]] = []
    while len(placed) < OBJECTS[0]:
        sprites = _sprites(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1)), height, width, rng)
        placed, owner = _lay_out(sprites, height, width, rng)
    pixels = background(height, width, rng)
    muted = pixels.mean(axis=(0, 1))
    painted = np.full((height, width), -1, np.int8)
    objects: list[SceneObject] = []
    for index, (sprite, x, y) in enumerate(placed):
        window = sprite.window(x, y)
        below = {objects[i].colour for i in np.unique(painted[window][sprite.solid]) if i >= 0}
        colour, texture = _paint(pixels[window], sprite, muted, below, rng)
        painted[window][sprite.solid] = index
        shift = np.array([x, y], dtype=np.float32)
        objects.append(
            SceneObject(
                label=sprite.label,
                colour=colour,
                texture=texture,
                uses=USES[sprite.label],
                polygons=tuple(part.points + shift for part in sprite.parts),
                visible=owner == index,
                amodal_area_px=sprite.area_px,
            )
        )
    return Scene(seed, add_noise(pixels, rng), tuple(objects))


def _sprites(count: int, height: int, width: int, rng: np.random.Generator) -> list[_Sprite]:
    # Scenes of few kinds make questions with several instances as answer.
    kinds = rng.choice(CLASSES, size=int(rng.integers(max(2, count // 2), count + 1)), replace=False)
    sprites = []
    for _ in range(count):
        low, high = _BANDS[int(rng.choice(len(_BANDS), p=_BAND_CHANCES))]
        sprites.append(_sprite(str(rng.choice(kinds)), rng.uniform(low, high) * height * width, rng))
    return sprites


def _sprite(label: str, area_px: float, rng: np.random.Generator) -> _Sprite:
    parts = outline(label, rng)
    probe = _rasterise(parts, 64.0)[0]
    scale = 64.0 * float(np.sqrt(area_px / max(1, (probe > 127).sum())))
    alpha, corner = _rasterise(parts, scale)
    solid = alpha > 127
    scaled = tuple(Part(part.points * scale, part.tone) for part in parts)
    return _Sprite(label, scaled, alpha, solid, int(solid.sum()), corner)


def _rasterise(parts: list[Part], scale: float) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    points = np.concatenate([part.points for part in parts]) * scale
    low, high = np.floor(points.min(0)).astype(int) - 1, np.ceil(points.max(0)).astype(int) + 2
    corner = (int(low[0]), int(low[1]))
    alpha = np.zeros((int(high[1]) - corner[1], int(high[0]) - corner[0]), np.uint8)
    for part in parts:
        cv2.fillPoly(alpha, [_fixed_point(part.points * np.float32(scale), corner)], 255, lineType=cv2.LINE_AA, shift=4)
    return alpha, corner


def _fixed_point(points: NDArray[np.float32], corner: tuple[int, int]) -> NDArray[np.int32]:
    return np.round((points - np.asarray(corner, np.float32)) * 16).astype(np.int32)


def _lay_out(
    sprites: list[_Sprite], height: int, width: int, rng: np.random.Generator
) -> tuple[list[tuple[_Sprite, int, int]], NDArray[np.int8]]:
    """Place sprites back to front; returns them with their centres and the front-most owner of every pixel."""
    owner = np.full((height, width), -1, np.int8)
    placed: list[tuple[_Sprite, int, int]] = []
    shown: list[int] = []
    floor_px = VISIBLE_FLOOR * height * width
    for sprite in sprites:
        best: tuple[float, int, int, NDArray[np.int64]] | None = None
        cover = bool(placed) and rng.random() < 0.5
        for _ in range(14):
            spot = _spot(sprite, placed, shown, height, width, cover, rng)
            if spot is None:
                continue
            x, y = spot
            hidden = np.bincount(owner[sprite.window(x, y)][sprite.solid] + 1, minlength=len(placed) + 1)[1:]
            left = np.asarray(shown, dtype=np.int64) - hidden
            whole = np.asarray([other.area_px for other, _, _ in placed], dtype=np.int64)
            if np.any((hidden > 0) & ((left < LEAST_SHOWN * whole) | (left < floor_px))):
                continue
            newly = float(np.sum((left <= 0.78 * whole) & (np.asarray(shown) > 0.8 * whole)))
            score = newly if cover else -float(hidden.sum())
            if best is None or score > best[0]:
                best = (score, x, y, left)
            if score >= (1.0 if cover else 0.0):
                break
        if best is None:
            continue
        _, x, y, left = best
        owner[sprite.window(x, y)][sprite.solid] = len(placed)
        shown = [*left.tolist(), sprite.area_px]
        placed.append((sprite, x, y))
    return placed, owner


def _spot(
    sprite: _Sprite,
    placed: list[tuple[_Sprite, int, int]],
    shown: list[int],
    height: int,
    width: int,
    cover: bool,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """A centre that keeps the sprite inside the picture; with `cover`, near an object that it can partly hide."""
    low_x, low_y = -sprite.corner[0], -sprite.corner[1]
    high_x, high_y = width - sprite.alpha.shape[1] + low_x, height - sprite.alpha.shape[0] + low_y
    if high_x <= low_x or high_y <= low_y:
        return None
    victims = [
        (other, x, y)
        for (other, x, y), left in zip(placed, shown, strict=True)
        if left > 0.85 * other.area_px and sprite.area_px > 0.3 * other.area_px
    ]
    if not cover or not victims:
        return int(rng.integers(low_x, high_x)), int(rng.integers(low_y, high_y))
    other, x, y = victims[int(rng.integers(len(victims)))]
    reach = 0.5 * (np.sqrt(other.area_px) + np.sqrt(sprite.area_px))
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.9)
    spot_x, spot_y = x + far * reach * np.cos(angle), y + far * reach * np.sin(angle)
    return int(np.clip(spot_x, low_x, high_x)), int(np.clip(spot_y, low_y, high_y))


def _paint(
    pixels: NDArray[np.float32], sprite: _Sprite, muted: NDArray[np.float32], below: set[str], rng: np.random.Generator
) -> tuple[str, str]:
    """Draw the sprite into its window of the picture; returns colour (unlike the background's and those `below`) and texture."""
    apart = [
        name for name, value in COLOURS.items() if name not in below and np.abs(np.asarray(value) - muted).max() > 70
    ]
    colour, texture = str(rng.choice(apart)), str(rng.choice(TEXTURES))
    height, width = sprite.alpha.shape
    tone = np.full((height, width), 100, np.uint8)
    for part in sprite.parts:
        cv2.fillPoly(tone, [_fixed_point(part.points, sprite.corner)], round(part.tone * 100), shift=4)
    factors = tone.astype(np.float32) / 100 * surface(texture, height, width, rng)
    if rng.random() < 0.7:
        rim = sprite.solid & (cv2.erode(sprite.alpha, np.ones((3, 3), np.uint8), borderValue=0) <= 127)
        factors[rim] *= rng.uniform(0.35, 0.75)
    hue = np.asarray(COLOURS[colour], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    drawn = hue * np.minimum(factors, 1)[..., None] + (255 - hue) * 0.6 * np.maximum(factors - 1, 0)[..., None]
    alpha = (sprite.alpha.astype(np.float32) / 255)[..., None]
    pixels += alpha * (drawn - pixels)
    return colour, texture
