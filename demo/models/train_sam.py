"""Trains `demo_sam` from scratch on generated scenes: `python -m demo.models.train_sam`.

The recipe is SAM's (arXiv 2304.02643, appendix A) cut down to one round of single-point prompts: the loss of a point is the
loss of the best of its three masks, and the IoU head learns the true IoU of every mask. Differences, each because the model is
tiny, starts from random weights and has minutes of a CPU:

- at first the encoder alone learns, from throw-away heads that say for each cell of the image embedding whether it is on
  an object and where that object's centre is. A point then finds its object early, whereas mask losses alone remain at
  "everything is background" for a long time;
- more throw-away heads name the objects (class, colour, texture) from the embedding averaged under their masks and from
  its cells. SAM starts from a masked autoencoder, whose features tell what things are; outlines alone do not teach that;
- Muon trains the matrices of the encoder's blocks, which AdamW leaves near their initial values for too long;
- the cross entropy gives object and background equal weight at first, and every pixel equal weight later;
- points fall on objects more often than on background; those on background teach the IoU head to predict 0, so that everything
  mode drops their masks.
"""

import argparse
import copy
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch import distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F
from tqdm import tqdm

from demo.models.encoder_scenes import ATTRIBUTES
from demo.models.naming import Cells, Words, word_loss
from demo.models.sam_examples import Example, example
from stages.proposers.sam.model import new_sam

FIRST_SEED = 1_000_000_000  # the data set and the evaluation use smaller seeds
STEPS = 3300
IMAGES_PER_STEP = 6
LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 150
DENSE_PART = 0.2  # fraction of the steps in which only the encoder learns, from the throw-away heads
MUON_RATE = 2.0  # times LEARNING_RATE
NAMING_WEIGHT = 0.4  # once masks are learned too
WEIGHT_DECAY = 0.02
EMA_DECAY = 0.998
POINT_CODE_SCALE = 2.0  # finer point codes than SAM's: small objects are close together on a 256 px canvas
CHECKPOINT_STEPS = 100
OUT = Path(__file__).parent / "demo_sam.safetensors"
STATE = Path("data/training/demo_sam.pt")


class Heads(nn.Module):
    """Heads on the image embedding itself, which are thrown away in the end."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.where = nn.Conv2d(dim, 12, 1)
        self.words, self.kinds = Words(dim), Cells(dim)

    def place_loss(self, embeddings: Tensor, batch: list[Example]) -> Tensor:
        """Loss of whether a cell is on an object, and where the object's centre is; `embeddings` [B, dim, 32, 32]."""
        found = F.pixel_shuffle(self.where(embeddings), 2)
        wanted = torch.stack([item.cells for item in batch])
        flag = wanted[:, :1]
        offset = F.smooth_l1_loss(found[:, 1:], wanted[:, 1:], reduction="none") * flag
        return 0.5 * F.binary_cross_entropy_with_logits(found[:, :1], flag) + offset.sum() / flag.sum().clamp(min=1)

    def naming_loss(self, embeddings: Tensor, batch: list[Example]) -> tuple[Tensor, Tensor]:
        """Cross entropy of the names of each object and each cell, and the share of objects whose class is found."""
        attributes = torch.cat([item.attributes for item in batch])
        counts = torch.tensor([len(item.attributes) for item in batch])
        scene_of = torch.repeat_interleave(torch.arange(len(batch)), counts)
        step = batch[0].masks.shape[-1] // embeddings.shape[-1]
        shares = torch.cat([F.avg_pool2d(item.masks[:, None], step).flatten(1) for item in batch])
        tokens = embeddings.flatten(2).transpose(1, 2)
        weights = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
        logits = self.words(torch.einsum("mp,mpd->md", weights, tokens[scene_of]))
        right = logits[:, : ATTRIBUTES[0]].argmax(1) == attributes[:, 0]
        loss = word_loss(logits, attributes) + self.kinds.loss(tokens, shares, scene_of, attributes)
        return loss, right.float().mean()


def mask_losses(logits: Tensor, truth: Tensor, done: float) -> Tensor:
    """Loss of every mask, float32 [P, M], of logits [P, M, h, w] against truth [P, h, w]: cross entropy and Dice.

    Object and background have equal weight in the cross entropy at first (`done` 0), else every small object would be learned
    as background; at the end (`done` 1) every pixel has equal weight, so that outlines are not drawn too wide.
    """
    area, size = truth.sum((1, 2), keepdim=True), truth[0].numel()
    even = truth / area.clamp(min=4) + (1 - truth) / (size - area)
    weight = ((1 - done) * even + done * 5 / size)[:, None]
    wanted = truth[:, None].expand_as(logits)
    entropy = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum((2, 3))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * wanted).sum((2, 3)) + 1) / (chance.sum((2, 3)) + area[:, 0] + 1)
    return entropy + dice


def true_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU float32 [P, M] of thresholded logits [P, M, h, w] with truth [P, h, w] thresholded at one half."""
    found, wanted = logits > 0, (truth >= 0.5)[:, None]
    return (found & wanted).sum((2, 3)) / (found | wanted).sum((2, 3)).clamp(min=1)


def point_loss(sam: Sam, embedding: Tensor, item: Example, done: float) -> tuple[Tensor, Tensor]:
    """Loss of one picture's points, and the mean IoU of the best of three for the points that are on objects."""
    with torch.autocast("cpu", torch.bfloat16):
        points = (item.points[:, None], torch.ones(len(item.points), 1))
        sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
        logits, predicted = sam.mask_decoder.predict_masks(
            embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense
        )
    logits, predicted = logits.float(), predicted.float()
    hit = item.on >= 0
    truth = item.masks[item.on.clamp(min=0)] * hit[:, None, None]
    with torch.no_grad():
        iou = true_iou(logits, truth)
    loss = 2 * F.mse_loss(predicted, iou)
    if hit.any():
        losses = mask_losses(logits[hit], truth[hit], done)
        three = losses[:, 1:]
        loss = loss + (three.min(1).values + 0.1 * three.mean(1) + 0.3 * losses[:, 0]).mean()
    return loss, iou[hit, 1:].max(1).values.mean() if hit.any() else torch.zeros(())


def train(out: Path, state: Path, steps: int, minutes: float | None, rank: int = 0, processes: int = 1) -> None:
    """Train, write `out` (float16 safetensors, averaged weights); resume from `state` if an interrupted run left it.

    With `minutes` the learning rate follows the clock instead of `steps`, so the run ends in time on any machine. Each
    of the `processes` (one thread each, with a single barrier per step) draws its share of a step's pictures.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sam = new_sam("demo_sam").train()
    heads = Heads(sam.prompt_encoder.embed_dim)
    _initialise(sam)
    average = copy.deepcopy(sam).requires_grad_(False)
    optimizers = _optimizers(sam, heads)
    step, spent = 0, 0.0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        for module, key in ((sam, "sam"), (heads, "heads"), (average, "average")):
            module.load_state_dict(saved[key])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        step, spent = saved["step"], saved["spent"]
    begun = time.monotonic() - spent
    recent: list[tuple[float, ...]] = []
    with tqdm(
        total=steps if minutes is None else None, initial=step, unit="step", disable=None if rank == 0 else True
    ) as bar:
        while True:
            clock = torch.tensor((time.monotonic() - begun) / 60)
            if processes > 1:
                dist.broadcast(clock, 0)
            done = step / steps if minutes is None else clock.item() / minutes
            if done >= 1:
                break
            rate = LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * done)) / 2
            for optimizer, factor in zip(optimizers, (MUON_RATE, 1.0), strict=True):
                optimizer.param_groups[0]["lr"] = rate * factor
            first = FIRST_SEED + step * IMAGES_PER_STEP
            batch = [example(seed) for seed in range(first + rank, first + IMAGES_PER_STEP, processes)]
            recent.append(_step(sam, heads, optimizers, batch, done))
            step += 1
            decay = min(EMA_DECAY, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in sam.parameters()], 1 - decay)
            bar.update()
            if rank == 0 and (step % CHECKPOINT_STEPS == 0 or step == steps):
                place, naming, points, right, iou = np.mean(recent, axis=0)
                spent = time.monotonic() - begun
                bar.write(
                    f"step {step} {spent / 60:.1f} min loss {place:.3f} + {naming:.3f} + {points:.3f} "
                    f"class {100 * right:.0f} % best-of-three IoU {iou:.3f}",
                    sys.stderr,
                )
                recent.clear()
                _save(state, sam, heads, average, optimizers, step, spent)
                export(average, out)
    if rank == 0:
        export(average, out)
        state.unlink(missing_ok=True)


def _optimizers(sam: Sam, heads: Heads) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the encoder's blocks, AdamW for everything else."""
    matrices = [m.weight for m in sam.image_encoder.blocks.modules() if isinstance(m, nn.Linear)]
    chosen = {id(parameter) for parameter in matrices}
    others = [p for module in (sam, heads) for p in module.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)),
    ]


def _step(
    sam: Sam, heads: Heads, optimizers: list[torch.optim.Optimizer], batch: list[Example], done: float
) -> tuple[float, ...]:
    """One step; returns the losses of place, names and points, the share of classes found and the mean best IoU."""
    pictures = torch.stack([item.picture for item in batch])
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = sam.image_encoder((pictures - sam.pixel_mean) / sam.pixel_std)
    embeddings = embeddings.float()
    place = heads.place_loss(embeddings, batch)
    naming, right = heads.naming_loss(embeddings, batch)
    points, iou, weight = torch.zeros(()), torch.zeros(()), 1.0
    if done >= DENSE_PART:
        part = min(1.0, 2 * (done - DENSE_PART) / (1 - DENSE_PART))
        results = [point_loss(sam, embeddings[i], item, part) for i, item in enumerate(batch)]
        points, iou = torch.stack([torch.stack(result) for result in results]).mean(0)
        weight = NAMING_WEIGHT
    for optimizer in optimizers:
        optimizer.zero_grad()
    (place + weight * naming + points).backward()
    parameters = [p for optimizer in optimizers for p in optimizer.param_groups[0]["params"]]
    if dist.is_initialized():
        _share_gradients(parameters)
    nn.utils.clip_grad_norm_(optimizers[1].param_groups[0]["params"], 1.0)  # Muon's steps have a fixed length anyway
    for optimizer in optimizers:
        optimizer.step()
    return place.item(), naming.item(), points.item(), right.item(), iou.item()


def _share_gradients(parameters: list[nn.Parameter]) -> None:
    """Average the gradients over the processes. Parameters of unused point, box and mask prompts have no gradient."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def _initialise(sam: Sam) -> None:
    """SAM's initialisation, changed so that a point attends to its own place from the first step on."""
    for module in sam.image_encoder.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.03)
            nn.init.zeros_(module.bias)
    nn.init.normal_(sam.image_encoder.pos_embed, std=0.05)
    nn.init.constant_(sam.image_encoder.neck[3].weight, 0.5)
    sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(POINT_CODE_SCALE)
    transformer = sam.mask_decoder.transformer
    looking = [layer.cross_attn_token_to_image for layer in transformer.layers]
    with torch.no_grad():
        for attention in [*looking, transformer.final_attn_token_to_image]:
            attention.q_proj.weight.mul_(2)
            attention.k_proj.weight.copy_(attention.q_proj.weight)


def _run(rank: int, out: Path, state: Path, steps: int, minutes: float | None, processes: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    train(out, state, steps, minutes, rank, processes)
    dist.destroy_process_group()


def _save(
    state: Path, sam: Sam, heads: Heads, average: Sam, optimizers: list[torch.optim.Optimizer], step: int, spent: float
) -> None:
    state.parent.mkdir(parents=True, exist_ok=True)
    saved = {"sam": sam.state_dict(), "heads": heads.state_dict(), "average": average.state_dict()}
    part = state.with_suffix(".part")
    torch.save({**saved, "optimizers": [o.state_dict() for o in optimizers], "step": step, "spent": spent}, part)
    part.replace(state)


def export(sam: Sam, out: Path) -> None:
    """Write the state dict as float16 safetensors, all or nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    save_file({key: value.half().contiguous() for key, value in sam.state_dict().items()}, part)
    part.replace(out)


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(prog="python -m demo.models.train_sam", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--state", type=Path, default=STATE, help="kept to go on after an interruption")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="schedule by the clock instead of --steps")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rest = (
            arguments.out,
            arguments.state,
            arguments.steps,
            arguments.minutes,
            arguments.processes,
            f"{folder}/meeting",
        )
        start_processes(_run, rest, nprocs=arguments.processes)


if __name__ == "__main__":
    main()
