"""What the demo's mask embeddings know of an object's class: a linear probe on trained and on random weights.

`python -m demo.measure.probe --train-scenes 400 --test-scenes 200 --first-seed 800000000` prints a Markdown table.
`demo_clip` has no mask embeddings: its patch tokens are averaged under each mask.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional as F
from tqdm import tqdm

from demo.data.scenes import CLASSES, scene
from demo.models.encoder_scenes import squashed_cells_of
from stages.checkpoints import WeightsError
from stages.encoders import ENCODERS, EncoderInput, Model, alphaclip, build, clip, dinov2
from stages.encoders.clip_vit import to_alphaclip, to_openai
from stages.encoders.common import Mask, State
from stages.encoders.dinov2_vit import to_official
from stages.proposers.sam.model import new_sam
from stages.weights import locate

PROBED = ("demo_alphaclip", "demo_alphaclip_mask_only", "demo_dinov2", "demo_sam", "demo_clip")
L2 = 0.05  # fitted once, on scenes that are in no table
RESAMPLES = 2000
_MASKS_PER_BATCH = 16

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Embedded:
    """Vectors float32 [M, D] of the visible objects of some scenes, their classes and their scenes, int64 [M]."""

    vectors: Floats
    labels: Integers
    scenes: Integers


@dataclass(frozen=True)
class Accuracy:
    """A share of objects, and the 2.5th and 97.5th percentile of it over resampled scenes, all 0 to 1."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})"


def embed(model: Model, seeds: Sequence[int], progress: str) -> Embedded:
    """Embed every object of the scenes of ``seeds`` by its true visible mask."""
    vectors, labels, owners = [], [], []
    for seed in tqdm(seeds, desc=progress, unit="scene", file=sys.stderr, disable=None, leave=False):
        drawn = scene(seed)
        vectors += model([EncoderInput(drawn.image, [thing.visible for thing in drawn.objects])])
        labels += [CLASSES.index(thing.label) for thing in drawn.objects]
        owners += [seed] * len(drawn.objects)
    return Embedded(np.concatenate(vectors), np.array(labels), np.array(owners))


def under_masks(model: Model) -> Model:
    """A mask encoder made of demo_clip: patch tokens [64, C] weighted by the part of each patch a mask covers."""

    def pooled(tokens: Floats, masks: Sequence[Mask]) -> Floats:
        weights = torch.stack([squashed_cells_of(mask) for mask in masks]).float().numpy()
        means: Floats = weights @ tokens / (weights.sum(1, keepdims=True) + 1e-8)
        return means

    return lambda items: [pooled(tokens, item.masks) for item, tokens in zip(items, model(items), strict=True)]


def probe(train: Embedded, test: Embedded) -> NDArray[np.bool_]:
    """Which of ``test`` a multinomial logistic regression on ``train`` gets right, bool [M].

    Features are standardised with the mean and deviation of ``train``; a penalty of L2 / 2 on the squared weights.
    """
    mean, deviation = train.vectors.mean(0), train.vectors.std(0) + 1e-6
    known, asked = (torch.from_numpy((each.vectors - mean) / deviation).double() for each in (train, test))
    labels = torch.from_numpy(train.labels)
    weights = torch.zeros(known.shape[1], int(labels.max()) + 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(weights.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(known @ weights + bias, labels) + L2 / 2 * weights.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    with torch.no_grad():
        found: Integers = (asked @ weights + bias).argmax(1).numpy()
    right: NDArray[np.bool_] = found == test.labels
    return right


def accuracy(right: NDArray[np.bool_], scenes: Integers) -> Accuracy:
    """Share of right answers with a bootstrap interval: whole scenes are resampled, not objects. Seeded."""
    _, owner = np.unique(scenes, return_inverse=True)
    hits, sizes = np.bincount(owner, weights=right), np.bincount(owner)
    chosen = np.random.default_rng(0).integers(0, len(sizes), (RESAMPLES, len(sizes)))
    shares = hits[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Accuracy(float(hits.sum() / sizes.sum()), float(low), float(high))


def random_state(name: str) -> State:
    """A checkpoint with the official keys of a demo encoder's architecture, from its own initialisation."""
    torch.manual_seed(0)
    line = ENCODERS[name]
    states: dict[str, Callable[[], State]] = {
        "alphaclip": lambda: to_alphaclip(alphaclip.make_model(line).state_dict()),
        "clip": lambda: to_openai(clip.make_model(line).state_dict()),
        "dinov2": lambda: to_official(dinov2.make_model(line).state_dict()),
        "sam": lambda: dict(new_sam(line.options["model"]).state_dict()),
    }
    return {key: value.contiguous() for key, value in states[line.module]().items()}


def compare(
    name: str, trained: Path, train_seeds: Sequence[int], test_seeds: Sequence[int]
) -> tuple[Accuracy, Accuracy]:
    """Accuracy of the probe on encoder ``name`` with the weights of file ``trained``, and with random ones."""
    weights = ENCODERS[name].weights[0]
    with tempfile.TemporaryDirectory() as folder:
        random = Path(folder) / f"{weights}.safetensors"
        save_file(random_state(name), random)
        results = []
        for kind, path in (("trained", trained), ("random", random)):
            model = build(name, {weights: path}, "cpu", _MASKS_PER_BATCH)
            model = under_masks(model) if ENCODERS[name].kind == "image" else model
            test = embed(model, test_seeds, f"{name} {kind} test")
            right = probe(embed(model, train_seeds, f"{name} {kind} train"), test)
            results.append(accuracy(right, test.scenes))
    return results[0], results[1]


def main() -> None:
    """Command line of the probe."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure.probe", description=__doc__)
    parser.add_argument("--train-scenes", type=int, default=400)
    parser.add_argument("--test-scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, required=True, help="train scenes first, then test scenes")
    parser.add_argument("--encoders", nargs="+", choices=PROBED, default=PROBED)
    parser.add_argument("--lock", type=Path, default=Path("weights.lock"))
    arguments = parser.parse_args()
    middle = arguments.first_seed + arguments.train_scenes
    train, test = range(arguments.first_seed, middle), range(middle, middle + arguments.test_scenes)
    print("| encoder | trained | random weights | difference, points | intervals apart |")
    print("|---|---|---|---|---|")
    for name in arguments.encoders:
        try:
            trained = locate(ENCODERS[name].weights[0], Path("data/weights"), arguments.lock)
        except WeightsError as error:
            parser.error(str(error))
        ours, chance = compare(name, trained, train, test)
        apart = "yes" if ours.low > chance.high else "no"
        print(f"| {name} | {ours} | {chance} | {100 * (ours.value - chance.value):.1f} | {apart} |", flush=True)


if __name__ == "__main__":
    main()
