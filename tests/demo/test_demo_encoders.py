"""The demo encoders: what their training sees, that it learns and writes official checkpoints, and the probe."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from demo.data.scenes import CLASSES, scene
from demo.measure.probe import PROBED, Embedded, accuracy, compare, probe, random_state
from demo.models import train_encoders as training
from demo.models.encoder_scenes import (
    CLIP_PX,
    Pool,
    cell_targets,
    draw_pool,
    masked_inputs,
    mirrored,
    squashed_cells_of,
)
from demo.models.naming import Centres
from stages.encoders import ENCODERS, EncoderInput, build
from stages.encoders.alpha_transforms import alpha_map, image_pixels
from stages.weights import locate

SEEDS = range(2_900_000_000, 2_900_000_004)
NAMES = ("demo_clip", "demo_alphaclip", "demo_dinov2")
_LN_MLP = ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias")
_LN_MLP += ("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")
_LN_MLP += ("attn.out_proj.weight", "attn.out_proj.bias")
_TOWER = ("class_embedding", "positional_embedding", "proj", "conv1.weight")
_TOWER += ("ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias")
_DINO = ("norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias")
_DINO += ("ls1.gamma", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight")
_DINO += ("mlp.fc2.bias", "ls2.gamma")


def official_keys(name: str) -> set[str]:
    """As openai/CLIP, SunzeY/AlphaCLIP and facebookresearch/dinov2 name them, at four layers; demo_clip has six."""
    if name == "demo_dinov2":
        rest = {"cls_token", "pos_embed", "mask_token", "norm.weight", "norm.bias"}
        rest |= {"patch_embed.proj.weight", "patch_embed.proj.bias"}
        return rest | {f"blocks.{layer}.{key}" for layer in range(4) for key in _DINO}
    joint = {"demo_clip": "in_proj_", "demo_alphaclip": "in_proj."}[name]
    blocks = (*_LN_MLP, f"attn.{joint}weight", f"attn.{joint}bias")
    layers = 6 if name == "demo_clip" else 4
    keys = {*_TOWER} | {f"transformer.resblocks.{layer}.{key}" for layer in range(layers) for key in blocks}
    return {f"visual.{key}" for key in keys} if name == "demo_clip" else keys | {"conv1_alpha.weight"}


def stored_keys(path: Path) -> set[str]:
    with safe_open(path, "pt") as file:
        return set(file.keys())


@pytest.fixture(scope="module")
def pool() -> Pool:
    return draw_pool(SEEDS)


def test_training_sees_what_the_encoders_see(pool: Pool) -> None:
    things = [(drawn, thing) for drawn in map(scene, SEEDS) for thing in drawn.objects]
    assert len(things) == len(pool.pictures.owner) == len(pool.cutouts)
    mask_only = torch.arange(len(things)) % 2 == 0
    pixels, alpha = masked_inputs(pool, torch.arange(len(things)), mask_only)
    for index, (drawn, thing) in enumerate(things):
        image = drawn.image * thing.visible[:, :, None] if mask_only[index] else drawn.image
        torch.testing.assert_close(pixels[index], image_pixels(image, CLIP_PX, False, "cpu")[0], atol=2e-3, rtol=0)
        torch.testing.assert_close(alpha[index], alpha_map(thing.visible, CLIP_PX, "cpu"), atol=2e-3, rtol=0)
        assert CLASSES[int(pool.pictures.attributes[index, 0])] == thing.label


def test_a_mirrored_scene_has_mirrored_patches(pool: Pool) -> None:
    scenes = torch.arange(len(SEEDS))
    objects, scene_of = pool.pictures.objects_of(scenes)
    which = scenes % 2 == 1
    pixels, cells = mirrored(pool.pictures, scenes, objects, scene_of, which)
    things = [(number, thing) for number, seed in enumerate(SEEDS) for thing in scene(seed).objects]
    for row, (number, thing) in enumerate(things):
        mask = thing.visible[:, ::-1].copy() if which[number] else thing.visible
        torch.testing.assert_close(cells[row], squashed_cells_of(mask).float(), atol=2e-3, rtol=0)
    for number in scenes.tolist():
        whole = pool.pictures.squashed[number].float()
        assert torch.equal(pixels[number], whole.flip(2) if which[number] else whole)


def test_what_is_asked_of_a_token_is_the_middle_and_the_size_of_its_object() -> None:
    asked = Centres(17, 8)
    asked.norm, asked.head = nn.Identity(), nn.Identity()  # the tokens are the answers
    cells = torch.zeros(1, 8, 8)
    cells[0, 5, 2:4] = 1.0
    said = torch.full((1, 64, 17), -30.0)
    said[..., [2, 3, 8 + 5]] = 0.0
    said[..., 16] = math.log(2)
    scene_of = torch.zeros(1, dtype=torch.long)
    right = float(asked.loss(said, cells.flatten(1), scene_of))
    assert right == pytest.approx(math.log(2), abs=1e-4)  # halfway between two columns, in one row
    elsewhere = said.clone()
    elsewhere[:, cells.flatten() == 0] = 99.0
    assert float(asked.loss(elsewhere, cells.flatten(1), scene_of)) == pytest.approx(right)
    for wrong in (said.roll(1, dims=2), said + torch.eye(17)[16]):
        assert float(asked.loss(wrong, cells.flatten(1), scene_of)) > right + 0.5


def test_objects_of_some_scenes(pool: Pool) -> None:
    objects, position = pool.pictures.objects_of(torch.tensor([2, 0, 2]))
    assert pool.pictures.owner[objects].tolist() == [[2, 0, 2][place] for place in position.tolist()]
    counts = torch.bincount(pool.pictures.owner)
    assert len(objects) == 2 * counts[2] + counts[0]


def test_cell_targets_share_out_each_patch() -> None:
    cells = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.25, 0.0], [0.0, 1.0, 1.0]])
    targets = cell_targets(cells, torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), scenes=2, kinds=2)
    assert targets.tolist() == [[[0, 1, 0], [0.25, 0.5, 0.25], [0, 0, 1]], [[0, 0, 1], [0, 1, 0], [0, 1, 0]]]


@pytest.mark.slow
def test_a_few_steps_reduce_each_loss(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "_LOG_STEPS", 8)
    torch.manual_seed(0)
    length = training.Length(24)
    tower = training.train_clip(pool.pictures, length, batch=4)
    training.train_alphaclip(pool, tower, length, batch=16)
    training.train_dinov2(pool, length, batch=2)
    log = capsys.readouterr().err
    for name in NAMES:
        losses = [float(value) for value in re.findall(rf"{name} step .* loss ([\d.]+)", log)]
        assert len(losses) == 3
        assert losses[-1] < 0.9 * losses[0], name


@pytest.mark.slow
def test_training_writes_official_checkpoints_that_load(tmp_path: Path) -> None:
    lock = tmp_path / "weights.lock"
    one = training.Length(1)
    written = training.train_all(tmp_path, lock, scenes=2, clip_scenes=3, lengths=(one, one, one))
    assert [path.name for path in written] == [f"{name}.safetensors" for name in NAMES]
    drawn = scene(SEEDS[0])
    masks = [thing.visible for thing in drawn.objects]
    for name, path in zip(NAMES, written, strict=True):
        assert stored_keys(path) == official_keys(name)
        assert name in lock.read_text(encoding="utf-8")
        model, line = build(name, {name: path}, "cpu", 4), ENCODERS[name]
        (vectors,) = model([EncoderInput(drawn.image, masks)])
        assert vectors.shape == (line.tokens or len(masks), line.dim)
        assert np.isfinite(vectors).all()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", [*NAMES, "demo_sam"])
def test_sixteen_bits_change_little(name: str, precision: str) -> None:
    drawn, line = scene(SEEDS[0]), ENCODERS[name]
    masks = [thing.visible for thing in drawn.objects]
    path = {line.weights[0]: locate(line.weights[0], Path("unused"), Path("weights.lock"))}
    (want,), (found,) = (
        build(name, path, "cpu", 4, *how)([EncoderInput(drawn.image, masks)]) for how in ((), (precision,))
    )
    assert found.dtype == want.dtype == np.float32
    cosine = (want * found).sum(-1) / np.linalg.norm(want, axis=-1) / np.linalg.norm(found, axis=-1)
    assert cosine.min() >= 0.999
    assert not np.array_equal(want, found)


def test_training_by_the_clock_ends() -> None:
    assert training.Length(10, minutes=2.0).done(step=5, spent_s=30.0) == 0.25
    assert training.Length(10).done(step=5, spent_s=30.0) == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_checkpoints_have_official_keys(name: str) -> None:
    assert stored_keys(locate(name, Path("unused"), Path("weights.lock"))) == official_keys(name)


def test_the_committed_models_are_small() -> None:
    """As git keeps and sends them: most rows of the text tower's vocabulary are zero."""
    assert sum(len(zlib.compress(path.read_bytes())) for path in training.OUT.glob("*.safetensors")) < 12e6


def embedded(rng: np.random.Generator, centres: np.ndarray, count: int) -> Embedded:
    labels = np.arange(count) % len(centres)
    vectors = centres[labels] + 0.2 * rng.standard_normal((count, centres.shape[1]))
    return Embedded(vectors.astype(np.float32) * 100 + 7, labels, np.arange(count) // 5)


def test_the_probe_reads_separable_vectors_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((8, 16))
    train, test = embedded(rng, centres, 400), embedded(rng, centres, 200)
    assert accuracy(probe(train, test), test.scenes).value > 0.99
    shuffled = Embedded(train.vectors, rng.permutation(train.labels), train.scenes)
    assert accuracy(probe(shuffled, test), test.scenes).high < 0.4


def test_accuracy_resamples_scenes() -> None:
    scenes = np.repeat(np.arange(50), 10)
    whole = accuracy(scenes % 2 == 0, scenes)
    spread = accuracy(np.arange(500) % 2 == 0, scenes)
    assert whole.value == spread.value == 0.5
    assert (spread.low, spread.high) == (0.5, 0.5)
    # The deviation of the mean of 50 fair coins is 0.07, so 95 % of them lie within 0.14.
    assert whole.low == pytest.approx(0.36, abs=0.03)
    assert whole.high == pytest.approx(0.64, abs=0.03)


@pytest.mark.parametrize("name", PROBED)
def test_random_weights_against_themselves_are_a_draw(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(random_state(name), path)
    trained, random = compare(name, path, range(4), range(4, 6))
    assert trained == random


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo_alphaclip", "demo_dinov2"])
def test_the_committed_weights_know_more_than_random_ones(name: str) -> None:
    weights = locate(ENCODERS[name].weights[0], Path("unused"), Path("weights.lock"))
    trained, random = compare(name, weights, range(800_000_000, 800_000_040), range(800_000_400, 800_000_420))
    assert trained.low > random.high
