"""Encoders -> mask_embeddings, instance_embeddings, image_features. An image is decoded once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages.base import VECTORS_PER_CHUNK, Collector, ColumnSpec, Pixels, RleMasks, Runner, ShardInput, row_trouble
from stages.encoders import Encoder, build, encoder_line
from stages.masks import features_column
from stages.params import Sections
from store.columns import ArrayLayout
from store.writer import ShardData

VERSION = 1


def columns(params: Sections) -> list[ColumnSpec]:
    """Two columns a mask encoder, one an image encoder."""
    specs = []
    for name in params.embed.mask_encoders:
        encoder = encoder_line(name, "mask")
        features = _features(params, name, encoder)
        for kind, reads, limit in (
            ("mask_embeddings", "masks", params.masks.max_masks),
            ("instance_embeddings", "instances", params.index.max_instances),
        ):
            layout = ArrayLayout(
                (limit, encoder.dim), VECTORS_PER_CHUNK, "float16", dimension_names=("image", reads[:-1], "dim")
            )
            options = {"encoder": _options(encoder), "limit": limit, "precision": params.embed.precision}
            specs.append(
                ColumnSpec(
                    f"{kind}/{name}",
                    "embed",
                    ("images", reads, *features),
                    options,
                    VERSION,
                    encoder.weights,
                    layout=layout,
                )
            )
    for name in params.embed.image_encoders:
        encoder = encoder_line(name, "image")
        layout = ArrayLayout(
            (encoder.tokens, encoder.dim), encoder.tokens, "float16", dimension_names=("image", "token", "dim")
        )
        options = {"encoder": _options(encoder), "precision": params.embed.precision}
        specs.append(
            ColumnSpec(f"image_features/{name}", "embed", ("images",), options, VERSION, encoder.weights, layout=layout)
        )
    return specs


def _options(encoder: Encoder) -> dict[str, Any]:
    return {key: value for key, value in asdict(encoder).items() if key != "weights"}


def _features(params: Sections, name: str, encoder: Encoder) -> tuple[str, ...]:
    """SAM pooling takes the stored image embedding of the same model, where the masks stage writes it."""
    if encoder.reads_sam_features and params.masks.save_features and params.masks.model == name:
        return (features_column(name),)
    return ()


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Load the encoders of the ``wanted`` columns; return the function that embeds a shard."""
    from stages.device import resolve_device

    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    device = resolve_device(params.run)
    names = dict.fromkeys(name.split("/", 1)[1] for name in specs)
    models = {name: build(name, weights, device, params.run.masks_per_batch, params.embed.precision) for name in names}

    def run(shard: ShardInput) -> dict[str, ShardData]:
        out = {name: Collector(spec) for name, spec in specs.items()}
        regions = {
            table: shard.rows(table)
            for table in ("masks", "instances")
            if any(table in spec.reads for spec in specs.values())
        }
        for position, (index, row, image) in enumerate(
            zip(shard.indices, shard.rows("images"), shard.pixels(), strict=True)
        ):
            if trouble := row_trouble(row, "image"):
                for column in out.values():
                    column.failed(index, *trouble)
            else:
                assert image is not None
                for name, model in models.items():
                    if f"image_features/{name}" in out:
                        out[f"image_features/{name}"].array(index, model(image))
                    else:
                        _embed_regions(name, model, image, index, position, shard, regions, out)
            shard.tick()
        return {name: collector.data() for name, collector in out.items()}

    return run


def _embed_regions(
    name: str,
    model: Any,
    image: Pixels,
    index: int,
    position: int,
    shard: ShardInput,
    regions: Mapping[str, list[dict[str, Any]]],
    out: Mapping[str, Collector],
) -> None:
    """Proposals and instances of an image, apart: the bytes of neither may depend on what is computed beside it."""
    features = None
    for column, table in ((f"mask_embeddings/{name}", "masks"), (f"instance_embeddings/{name}", "instances")):
        if column not in out:
            continue
        collector, row = out[column], regions[table][position]
        stored = [read for read in collector.spec.reads if read.startswith("sam_features/")]
        troubles = (row_trouble(row, table), *(shard.trouble(read, position) for read in stored))
        if trouble := next(filter(None, troubles), None):
            collector.failed(index, *trouble)
            continue
        if stored and features is None:
            features = shard.array(stored[0], position)
        assert collector.spec.layout is not None
        limit, dim = collector.spec.layout.row_shape
        counts = row["segmentation"][:limit]
        masks = RleMasks(counts, *image.shape[:2])
        vectors = model(image, masks, features) if counts else np.empty((0, dim), np.float32)
        collector.array(index, vectors, len(row["segmentation"]) - len(counts))
