"""``python -m demo.measure.texts``: how often the text tower of `demo_alphaclip` names what a mask shows.

As CLIP classifies (arXiv 2103.00020, section 3.1): a mask gets the name whose text has the largest cosine with its vector. These
masks are the visible parts of objects in scenes that neither tower was trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demo.data.scenes import CLASSES, COLOURS, scene
from demo.models.encoder_scenes import attributes_of
from stages.encoders import EncoderInput, build, build_text

MODELS = Path(__file__).parents[1] / "models"


class Named(NamedTuple):
    """The shares of objects whose class and whose colour are named right, and how many objects there are."""

    classes: float
    colours: float
    objects: int


def named(seeds: Sequence[int]) -> Named:
    """What is named right in the scenes of these seeds."""
    model = build("demo_alphaclip", {"demo_alphaclip": MODELS / "demo_alphaclip.safetensors"}, "cpu", 64)
    tower = build_text("demo_alphaclip", MODELS / "demo_alphaclip_text.safetensors", "cpu")
    classes = np.stack([tower.embed(f"a {name}") for name in CLASSES])
    colours = np.stack([tower.embed(f"a {name} object") for name in COLOURS])
    right = []
    for seed in seeds:
        drawn = scene(seed)
        (vectors,) = model([EncoderInput(drawn.image, [thing.visible for thing in drawn.objects])])
        for thing, vector in zip(drawn.objects, tower.project(vectors), strict=True):
            kind, colour, _ = attributes_of(thing)
            right.append([(classes @ vector).argmax() == kind, (colours @ vector).argmax() == colour])
    classes_right, colours_right = np.mean(right, axis=0).tolist()
    return Named(classes_right, colours_right, len(right))


def main() -> None:
    """Command line of the measurement."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure.texts", description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    found = named(range(parser.parse_args().scenes))
    print(f"of {found.objects} objects: class {found.classes:.1%}, colour {found.colours:.1%}")


if __name__ == "__main__":
    main()
