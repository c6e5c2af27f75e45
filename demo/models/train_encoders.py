"""Trains `demo_clip`, `demo_alphaclip` and `demo_dinov2` from scratch on generated scenes.

`python -m demo.models.train_encoders`. The architectures are those of the encoders' ENCODERS lines and the inputs are
made by the encoders' own transforms; the objectives are supervised, because everything about the scenes is known. An object's
class, colour and texture take the place of a caption: its embedding is compared by cosine and temperature with one learned
vector per word, as CLIP compares image and text (arXiv 2103.00020). As AlphaCLIP starts from CLIP's weights with its alpha
convolution at zero (arXiv 2312.03818), `demo_alphaclip` starts from `demo_clip`'s first layers. Throw-away heads on the patch
tokens say which object covers a patch, and CLIP's also where the patch and its object lie: the tokens are what other stages
read, and a language model can only point at things whose place they tell. Half of the pictures for CLIP are mirrored.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from demo.models.encoder_scenes import (
    ATTRIBUTES,
    CLIP_GRID,
    Pictures,
    Pool,
    draw_pictures,
    draw_pool,
    masked_inputs,
    mirrored,
)
from demo.models.naming import Cells, Centres, Places, Words, word_loss
from stages.encoders import ENCODERS, alphaclip, clip, dinov2
from stages.encoders.clip_vit import AlphaVisionTransformer, to_alphaclip, to_openai
from stages.encoders.common import State
from stages.encoders.dinov2_vit import DINOv2, to_official
from stages.weights import record

FIRST_SEED = 2_000_000_000  # the data set and the evaluation use smaller seeds
SCENES = 12_000
CLIP_SCENES = 40_000
"""With as few scenes as the other encoders use, CLIP named 96 % of the objects it was trained on and 70 % of others."""
OUT = Path(__file__).parent
LOCK = Path("weights.lock")
LEARNING_RATE = 0.003
_WARMUP_STEPS = 50
_LOG_STEPS = 100

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Length:
    """How long to train: this many steps or, if ``minutes`` is given, this time on any machine."""

    steps: int
    minutes: float | None = None

    def done(self, step: int, spent_s: float) -> float:
        """The fraction of the training that is done, 0 to 1."""
        return step / self.steps if self.minutes is None else spent_s / 60 / self.minutes


LENGTHS = (Length(4741), Length(2600), Length(1250))  # of CLIP, AlphaCLIP and DINOv2


def train_clip(seen: Pictures, length: Length, batch: int = 64) -> VisionTransformer:
    """CLIP's tower: its image embedding names what is in the picture, its tokens of layer -2 what is in the patch."""
    line = ENCODERS["demo_clip"]
    model = clip.make_model(line)
    words, cells, places = Words(line.options["output_dim"]), Cells(line.dim), Places(line.dim, line.tokens)
    pooled_words, centres = Words(line.dim), Centres(line.dim, CLIP_GRID)
    layer = line.options["layers"] - 2

    def loss(scenes: Tensor) -> Tensor:
        objects, scene_of = seen.objects_of(scenes)
        pixels, weights = mirrored(seen, scenes, objects, scene_of, torch.rand(len(scenes)) < 0.5)
        # On a CPU torch's flash kernel takes twice as long in 16 bit as its plain kernel.
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            out = model.forward_intermediates(pixels, [layer], output_fmt="NLC")
        present = torch.zeros(len(scenes), ATTRIBUTES[0])
        present[scene_of, seen.attributes[objects, 0]] = 1
        logits = words(out["image_features"].float())[:, : ATTRIBUTES[0]] - 4
        image_loss = F.binary_cross_entropy_with_logits(logits, present)
        tokens = out["image_intermediates"][0].float()
        attributes = seen.attributes[objects]
        named = word_loss(pooled_words(pooled(tokens, weights, scene_of)), attributes)
        dense = cells.loss(tokens, weights, scene_of, attributes)
        return image_loss + dense + named + 0.3 * places.loss(tokens) + 0.5 * centres.loss(tokens, weights, scene_of)

    modules = [model, words, pooled_words, cells, places, centres]
    _optimise("demo_clip", modules, loss, len(seen.squashed), batch, length)
    return model


def train_alphaclip(pool: Pool, tower: VisionTransformer, length: Length, batch: int = 64) -> AlphaVisionTransformer:
    """AlphaCLIP from a CLIP tower: the embedding of a masked object names it, with and without the surrounding scene."""
    line = ENCODERS["demo_alphaclip"]
    model, words = alphaclip.make_model(line), Words(line.dim)
    begun = {key: value for key, value in tower.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(begun | {"conv1_alpha.weight": torch.zeros_like(model.conv1_alpha.weight)})

    def loss(objects: Tensor) -> Tensor:
        pixels, alpha = masked_inputs(pool, objects, torch.arange(len(objects)) % 2 == 0)
        with torch.autocast("cpu", torch.bfloat16):
            embedding = model(pixels, alpha, range(len(alpha)))
        return word_loss(words(embedding.float()), pool.pictures.attributes[objects])

    _optimise("demo_alphaclip", [model, words], loss, len(pool.pictures.owner), batch, length)
    return model


def train_dinov2(pool: Pool, length: Length, batch: int = 16) -> DINOv2:
    """DINOv2: the mean of an object's patch tokens names it, and every token what is in its patch."""
    line = ENCODERS["demo_dinov2"]
    model, words, cells = dinov2.make_model(line), Words(line.dim), Cells(line.dim)

    def loss(scenes: Tensor) -> Tensor:
        objects, scene_of = pool.pictures.objects_of(scenes)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = model(pool.padded[scenes].float()).flatten(2).transpose(1, 2)
        tokens, weights = tokens.float(), pool.padded_cells[objects].float()
        attributes = pool.pictures.attributes[objects]
        return word_loss(words(pooled(tokens, weights, scene_of)), attributes) + cells.loss(
            tokens, weights, scene_of, attributes
        )

    _optimise("demo_dinov2", [model, words, cells], loss, len(pool.pictures.squashed), batch, length)
    return model


def pooled(tokens: Tensor, weights: Tensor, scene_of: Tensor) -> Tensor:
    """The mean [m, dim] of the tokens [B, P, dim] of each object's scene int64 [m], by weights [m, P]."""
    shares = weights / weights.sum(1, keepdim=True)
    return torch.einsum("mp,mpd->md", shares, tokens[scene_of])


def _optimise(name: str, modules: list[nn.Module], loss: Loss, count: int, batch: int, length: Length) -> None:
    """Minimise ``loss`` of random batches of ``range(count)``: warm-up, then a cosine to zero."""
    model, *heads = (module.train() for module in modules)
    matrices = [p for key, p in model.named_parameters() if p.ndim == 2 and (".resblocks." in key or ".layer." in key)]
    chosen = {id(p) for p in matrices}
    others = [p for module in (model, *heads) for p in module.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=0.02, betas=(0.9, 0.98)),
    ]
    begun, step, recent = time.monotonic(), 0, list[float]()
    with tqdm(desc=name, unit="step", file=sys.stderr, disable=None) as bar:
        while (done := length.done(step, time.monotonic() - begun)) < 1:
            rate = LEARNING_RATE * min(1, (step + 1) / _WARMUP_STEPS) * (1 + math.cos(math.pi * done)) / 2
            value = loss(torch.randint(count, (batch,)))
            for optimizer in optimizers:
                optimizer.zero_grad()
                optimizer.param_groups[0]["lr"] = rate
            value.backward()
            nn.utils.clip_grad_norm_(others, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            recent.append(float(value.detach()))
            step += 1
            bar.update()
            if step % _LOG_STEPS == 0:
                spent = time.monotonic() - begun
                tqdm.write(f"{name} step {step} {spent:.0f} s loss {sum(recent) / len(recent):.3f}", sys.stderr)
                recent.clear()
    model.eval()


def export(name: str, state: State, out: Path, lock: Path) -> Path:
    """Write official keys as float16 (the loaders read float32) to ``out/name.safetensors``, its digest to ``lock``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    part = path.with_suffix(".part")
    save_file({key: value.half().contiguous() for key, value in state.items()}, part)
    part.replace(path)
    record(name, path, lock)
    return path


def train_all(
    out: Path = OUT,
    lock: Path = LOCK,
    scenes: int = SCENES,
    clip_scenes: int = CLIP_SCENES,
    lengths: tuple[Length, Length, Length] = LENGTHS,
    processes: int = 1,
) -> list[Path]:
    """Train the three and write their files; ``lengths`` are those of CLIP, AlphaCLIP and DINOv2."""
    seen = draw_pictures(range(FIRST_SEED, FIRST_SEED + clip_scenes), processes)
    torch.manual_seed(0)
    tower = train_clip(seen, lengths[0])
    written = [export("demo_clip", to_openai(tower.state_dict()), out, lock)]
    del seen
    pool = draw_pool(range(FIRST_SEED, FIRST_SEED + scenes), processes)
    torch.manual_seed(1)
    masked = train_alphaclip(pool, tower, lengths[1])
    written.append(export("demo_alphaclip", to_alphaclip(masked.state_dict()), out, lock))
    torch.manual_seed(2)
    dense = train_dinov2(pool, lengths[2])
    return [*written, export("demo_dinov2", to_official(dense.state_dict()), out, lock)]


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m demo.models.train_encoders", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--scenes", type=int, default=SCENES, help="that demo_alphaclip and demo_dinov2 see")
    parser.add_argument("--clip-scenes", type=int, default=CLIP_SCENES, help="that demo_clip sees")
    parser.add_argument("--minutes", type=float, help="a model, by the clock instead of by steps")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    first, second, third = (Length(length.steps, arguments.minutes) for length in LENGTHS)
    lengths = (first, second, third)
    for path in train_all(
        arguments.out, arguments.lock, arguments.scenes, arguments.clip_scenes, lengths, arguments.threads
    ):
        print(path)


if __name__ == "__main__":
    main()
