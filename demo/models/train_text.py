"""Trains the text tower of `demo_alphaclip` on generated scenes.

`python -m demo.models.train_text`. The architecture, the tokenizer and the loss are CLIP's (arXiv 2103.00020). The tower of the
masks is frozen, as in LiT (arXiv 2111.07991): each caption is moved near the vectors of the masks that it describes correctly.
Only words of the captions are learned.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from open_clip.transformer import QuickGELU, TextTransformer
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from demo.data.scenes import CLASSES, COLOURS, USES, scene
from demo.data.textures import TEXTURES
from demo.models.encoder_scenes import attributes_of
from demo.models.train_encoders import FIRST_SEED, LOCK, OUT, export
from stages.encoders import ENCODERS, EncoderInput, build
from stages.encoders.clip_text import make_text, tokenizer, tokens_of, with_causal_mask
from stages.train.elisa.align import align_loss

NAME = "demo_alphaclip_text"
SCENES, STEPS, BATCH = 2000, 1000, 256
LEARNING_RATE, TEMPERATURE = 2e-3, 0.07
WIDTH, LAYERS, CONTEXT = 64, 2, 77
ANY = -1
_USED = 32
"""Number of tokens used in a batch, as no caption is longer."""


class Objects(NamedTuple):
    """``vectors``: of M masks, float32 [M, 64], of length 1; ``attributes``: class, colour and texture of each, int64 [M, 3]."""

    vectors: Tensor
    attributes: Tensor


def see(seeds: Sequence[int], path: Path) -> Objects:
    """The visible objects of scenes as `demo_alphaclip` embeds them; about 50 ms per scene."""
    model = build("demo_alphaclip", {"demo_alphaclip": path}, "cpu", 64)
    vectors, attributes = [], []
    for seed in tqdm(seeds, desc="scenes", unit="scene", file=sys.stderr, disable=None):
        drawn = scene(seed)
        (found,) = model([EncoderInput(drawn.image, [thing.visible for thing in drawn.objects])])
        vectors.append(torch.from_numpy(found))
        attributes += [attributes_of(thing) for thing in drawn.objects]
    return Objects(torch.cat(vectors), torch.tensor(attributes))


def caption(attributes: Sequence[int], rng: np.random.Generator) -> tuple[str, tuple[int, int, int]]:
    """A caption of an object, and the class, colour and texture that it states; :data:`ANY` for those it does not state."""
    kind, colour, texture = attributes
    label, hue, weave = CLASSES[kind], list(COLOURS)[colour], TEXTURES[texture]
    if rng.random() < 0.2:
        return f"something that {rng.choice(USES[label])}", (kind, ANY, ANY)
    says = rng.random(3) < (0.8, 0.5, 0.4)
    noun = label if says[0] else str(rng.choice(["thing", "object"]))
    words = " ".join([*([weave] if says[2] else []), *([hue] if says[1] else []), noun])
    form = str(rng.choice(["{}", "a {}", "the {}", "a photo of a {}"]))
    told = (kind if says[0] else ANY, colour if says[1] else ANY, texture if says[2] else ANY)
    return form.format(words), told


def are_true(told: Tensor, attributes: Tensor) -> Tensor:
    """Which captions, given as int64 [n, 3], are true of which objects, int64 [m, 3]: bool [m, n]."""
    return ((told[None] == ANY) | (told[None] == attributes[:, None])).all(-1)


def train_text(seen: Objects, steps: int = STEPS, batch: int = BATCH) -> TextTransformer:
    """Train the text tower so that captions match the masks that they describe."""
    known = tokenizer()
    model = with_causal_mask(
        make_text(known.vocab_size, CONTEXT, WIDTH, LAYERS, ENCODERS["demo_alphaclip"].dim, QuickGELU)
    ).train()
    model.attn_mask = model.attn_mask[:_USED, :_USED]
    rng, used = np.random.default_rng(0), torch.zeros(known.vocab_size, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.98))
    with tqdm(range(steps), desc=NAME, unit="step", file=sys.stderr, disable=None) as bar:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
            objects = torch.from_numpy(rng.integers(len(seen.vectors), size=batch))
            attributes = seen.attributes[objects]
            captions, told = zip(*(caption(each, rng) for each in attributes.tolist()), strict=True)
            tokens = torch.stack([tokens_of(text, CONTEXT) for text in captions])[:, :_USED]
            used[tokens] = True
            same = are_true(torch.tensor(told), attributes)
            loss = align_loss(seen.vectors[objects], F.normalize(model(tokens), dim=-1), same, TEMPERATURE)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 100 == 0:
                tqdm.write(f"{NAME} step {step} loss {float(loss.detach()):.3f}", sys.stderr)
    with torch.no_grad():
        model.token_embedding.weight[~used] = 0  # words in no caption; git compresses zeros
    return model.eval()


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m demo.models.train_text", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    seen = see(range(FIRST_SEED, FIRST_SEED + arguments.scenes), arguments.out / "demo_alphaclip.safetensors")
    print(export(NAME, train_text(seen, arguments.steps).state_dict(), arguments.out, arguments.lock))


if __name__ == "__main__":
    main()
