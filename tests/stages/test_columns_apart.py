"""The bytes of a column do not depend on what else is computed in the same run, for every encoder and for SAM.

On a GPU the last bits of a network's output depend on what shares its batch. Here every network is made to depend on it
much: what it gives is shifted by the size and the mean of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transformer import VisionTransformer

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages import embed, masks
from stages.base import ShardInput
from stages.encoders import openclip
from stages.encoders.clip_vit import AlphaVisionTransformer
from stages.encoders.common import once_an_image
from stages.encoders.dinov2_vit import DINOv2
from stages.params import Sections
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam.encoder import FastEncoder
from store import rle
from store.format.names import proposer_of
from store.write.writer import ShardData

MODELS = ROOT / "demo/models"
WEIGHTS = {name: MODELS / f"{name}.safetensors" for name in ("demo_alphaclip", "demo_clip", "demo_dinov2", "demo_sam")}
ENCODERS = ["demo_alphaclip", "demo_alphaclip_mask_only", "demo_dinov2", "demo_sam"]
SIZES = [(40, 60), (64, 48), (50, 50), (30, 70), (48, 64)]


def settings(*changes: str) -> Sections:
    return load_settings(
        ROOT / "params.yaml",
        [
            "run.device=cpu",
            "run.masks_per_batch=3",
            "proposers={sam: {model: demo_sam, points_per_side: 2, pred_iou_thresh: 0.4, stability_score_thresh: 0}}",
            "proposers.grid={kind: grid}",
            "train.proposer=sam",
            "embed.max_masks=16",
            f"embed.mask_encoders=[{', '.join(ENCODERS)}]",
            "embed.image_encoders=[demo_clip]",
            *changes,
        ],
    ).of("demo")


@pytest.fixture
def batches_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each network's output is shifted by what its batch is."""

    def shifted(owner: type, name: str, shift: Callable[[Any, torch.Tensor], Any]) -> None:
        whole = getattr(owner, name)

        def call(self: Any, pixels: torch.Tensor, *rest: Any, **more: Any) -> Any:
            return shift(whole(self, pixels, *rest, **more), 0.1 * len(pixels) + pixels.float().mean())

        monkeypatch.setattr(owner, name, call)

    def spread(found: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return found + by * torch.linspace(0, 1, found.shape[1]).view(-1, *[1] * (found.ndim - 2))

    shifted(DINOv2, "forward", spread)
    shifted(FastEncoder, "__call__", spread)
    shifted(
        VisionTransformer,
        "forward_intermediates",
        lambda found, by: {"image_intermediates": [spread(found["image_intermediates"][0], by)]},
    )
    alpha = AlphaVisionTransformer.forward

    def forward(self: Any, image: torch.Tensor, alphas: torch.Tensor, of: list[int]) -> torch.Tensor:
        return spread(alpha(self, image, alphas, of), 0.1 * len(alphas) + alphas.mean() + image.mean())

    monkeypatch.setattr(AlphaVisionTransformer, "forward", forward)


def regions(seed: int, count: int, size: tuple[int, int]) -> list[str]:
    """Rectangles; of three or more the last is empty."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        mask = np.zeros(size, bool)
        top, left = rng.integers(0, 20, 2)
        mask[top : top + 10 + 5 * number, left : left + 15] = number < 2
        found.append(rle.encode(mask))
    return found


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, Any]]]:
    """Five images: one failed, one without proposals, one without instances, some masks without a pixel."""
    ok = {"status": "ok", "error": None}
    failed = {"status": "failed", "error": "truncated"}
    tables: dict[str, list[dict[str, Any]]] = {"images": [ok, ok, ok, failed, ok]}
    for name, counts in (
        ("masks/sam", (2, 0, 3, 0, 1)),
        ("masks/grid", (1, 1, 2, 0, 4)),
        ("instances", (1, 2, 0, 0, 3)),
    ):
        tables[name] = []
        for place, (count, size) in enumerate(zip(counts, SIZES, strict=True)):
            found = regions(10 * place + len(name), count, size)
            row = {"segmentation": found, "area": [rle.area(each) for each in found]}
            tables[name].append({**row, **tables["images"][place]})
    return tables


def shard_of(rows: Mapping[str, list[dict[str, Any]]]) -> ShardInput:
    def pixels() -> Iterator[Any]:
        rng = np.random.default_rng(0)
        for row, (height, width) in zip(rows["images"], SIZES, strict=True):
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            yield image if row["status"] == "ok" else None

    model = SAM_MODELS["demo_sam"]
    stored = np.random.default_rng(1).standard_normal((5, model.embed_dim, model.grid, model.grid)).astype(np.float16)
    return ShardInput(
        range(5),
        lambda table: rows[table],
        lambda column, place: stored[place],
        lambda column, place: ("failed", "truncated") if rows["images"][place]["status"] != "ok" else None,
        pixels,
        lambda images: None,
    )


def bytes_of(data: ShardData) -> list[Any]:
    """Everything of a column that is stored."""
    rows = [row.tobytes() if isinstance(row, np.ndarray) else row for row in data.rows]
    return [rows, data.counts, data.status, data.errors, data.omitted]


def compute(stage: Any, params: Sections, names: list[str], rows: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    done = stage.start(params, names, WEIGHTS, ROOT)(shard_of(rows))
    assert list(done) == names
    return {name: bytes_of(data) for name, data in done.items()}


@pytest.mark.usefixtures("batches_matter")
@pytest.mark.parametrize(("images", "features"), [(1, "[demo_sam]"), (2, "[demo_sam]"), (5, "[demo_sam]"), (5, "[]")])
def test_a_column_of_vectors_alone_and_with_all_others(
    rows: dict[str, list[dict[str, Any]]], images: int, features: str
) -> None:
    params = settings(f"run.images_per_batch={images}", f"embed.sam_features={features}")
    names = [spec.name for spec in embed.columns(params)]
    assert len(names) == 3 * len(ENCODERS) + 1
    together = compute(embed, params, names, rows)
    for name in names:
        assert compute(embed, params, [name], rows)[name] == together[name], name


@pytest.mark.usefixtures("batches_matter")
def test_a_network_that_columns_share_runs_once_an_image(
    rows: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = DINOv2.forward
    monkeypatch.setattr(DINOv2, "forward", lambda self, pixels: (seen.append(len(pixels)), forward(self, pixels))[1])
    params = settings("run.images_per_batch=5")
    names = ["mask_embeddings/sam/demo_dinov2", "mask_embeddings/grid/demo_dinov2", "instance_embeddings/demo_dinov2"]
    compute(embed, params, names, rows)
    assert seen == [1] * 4  # the failed image is not seen


@pytest.mark.usefixtures("batches_matter")
@pytest.mark.parametrize("images", [1, 3])
def test_masks_and_features_alone_and_together(
    rows: dict[str, list[dict[str, Any]]], images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.proposers.sam.generator.IMAGES_PER_BATCH", {"cpu": images})
    params = settings("proposers.sam.pred_iou_thresh=0.0")
    names = ["masks/sam", "masks/grid", "sam_features/demo_sam"]
    together = compute(masks, params, names, rows)
    assert any(row["segmentation"] for row in together["masks/sam"][0])
    for name in names:
        assert compute(masks, params, [name], rows)[name] == together[name], name


@pytest.mark.usefixtures("batches_matter")
def test_memory_that_runs_out_for_one_column_decides_no_other(
    rows: dict[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room for a batch of the proposals', and room for each of the instances'."""
    forward = AlphaVisionTransformer.forward

    def crowded(self: Any, image: torch.Tensor, alphas: torch.Tensor, of: list[int]) -> torch.Tensor:
        if of == [0, 0, 1]:  # two proposals of the first image and one of the next
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, image, alphas, of)

    monkeypatch.setattr(AlphaVisionTransformer, "forward", crowded)
    params = settings("run.images_per_batch=5")
    names = ["mask_embeddings/sam/demo_alphaclip", "instance_embeddings/demo_alphaclip"]
    together = compute(embed, params, names, rows)
    for name in names:
        assert compute(embed, params, [name], rows)[name] == together[name], name
    runner = embed.start(params, names, WEIGHTS, ROOT)
    first = {name: bytes_of(data) for name, data in runner(shard_of(rows)).items()}
    assert {name: bytes_of(data) for name, data in runner(shard_of(rows)).items()} == first == together


def test_a_mask_without_a_pixel_has_a_zero_vector_whatever_the_encoder(rows: dict[str, list[dict[str, Any]]]) -> None:
    params = settings("run.images_per_batch=2")
    names = [spec.name for spec in embed.columns(params) if not spec.name.startswith("image")]
    for name, data in embed.start(params, names, WEIGHTS, ROOT)(shard_of(rows)).items():
        proposer = proposer_of(name)
        areas = [area for row in rows[f"masks/{proposer}" if proposer else "instances"] for area in row["area"]]
        vectors = np.concatenate([np.asarray(row) for row in data.rows])
        assert vectors.any(axis=1).tolist() == [area > 0 for area in areas], name
        assert 0 in areas, name


def test_convnext_sees_one_image_at_a_time() -> None:
    """Its network is too large for a test; the part that remembers is the same."""
    seen: list[int] = []
    grid = once_an_image(lambda image: (seen.append(id(image)), torch.zeros(1))[1])
    first, second = (np.zeros((2, 2, 3), np.uint8) for _ in range(2))
    for image in (first, second, first, second):
        grid(image)
    assert seen == [id(first), id(second)]
    kept = grid.__closure__[1].cell_contents  # type: ignore[index]
    assert len(kept) == 2
    del first, second, image
    assert not kept, "an image's output goes with its pixels"
    assert openclip.once_an_image is once_an_image
