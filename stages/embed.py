"""Encoders -> mask_embeddings, instance_embeddings, image_features. An image is decoded once for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.base import VECTORS_PER_CHUNK, Collector, ColumnSpec, Pixels, RleMasks, Runner, ShardInput, row_trouble
from stages.encoders import Encoder, EncoderInput, Model, build, encoder_line
from stages.masks import features_column
from stages.params import Sections
from store.format.arrays import AnyArray
from store.format.column import ArrayLayout
from store.write.writer import ShardData

VERSION = 2
MASKS_PER_BATCH = 64
IMAGES_PER_BATCH = {"cpu": 1, "cuda": 8}
"""Images whose masks are embedded together: one fills a processor."""


def columns(params: Sections) -> list[ColumnSpec]:
    """Two columns a mask encoder, one an image encoder."""
    specs = []
    for name in params.embed.mask_encoders:
        encoder = encoder_line(name, "mask")
        features = _features(params, name, encoder)
        for kind, reads, limit in (
            ("mask_embeddings", "masks", params.embed.max_masks),
            ("instance_embeddings", "instances", params.embed.max_instances),
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
    from stages.batch_size import ahead, groups
    from stages.device import resolve_device

    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    device = resolve_device(params.run)
    names = dict.fromkeys(name.split("/", 1)[1] for name in specs)
    at_once = params.run.masks_per_batch or MASKS_PER_BATCH
    models = {name: build(name, weights, device, at_once, params.embed.precision) for name in names}
    size = params.run.images_per_batch or IMAGES_PER_BATCH[device]

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = {name: Collector(spec) for name, spec in specs.items()}
        rows = {table: shard.rows(table) for table in dict.fromkeys(_regions(spec) for spec in specs.values())}
        places = zip(itertools.count(), shard.indices, shard.rows("images"), shard.pixels(), strict=False)
        for group in ahead(groups(places, size)):
            array = cache(shard.array)  # SAM's embedding of an image serves its proposals and its instances
            for name, model in models.items():
                for column in (f"mask_embeddings/{name}", f"instance_embeddings/{name}", f"image_features/{name}"):
                    if column in out:
                        _embed(model, out[column], group, shard, rows[_regions(specs[column])], array)
            shard.tick(len(group))
        return {name: collector.data() for name, collector in out.items()}

    return compute


Place = tuple[int, int, dict[str, Any], Pixels | None]
"""Position in the shard, image_index, row of the table images, and its pixels."""


def _regions(spec: ColumnSpec) -> str:
    """The table whose rows a column has vectors of: masks, instances, or images where it is of whole images."""
    return next((table for table in ("masks", "instances") if table in spec.reads), "images")


def _embed(
    model: Model,
    collector: Collector,
    group: Sequence[Place],
    shard: ShardInput,
    rows: Sequence[Mapping[str, Any]],
    array: Callable[[str, int], AnyArray],
) -> None:
    """One column of some images. Columns are computed apart: the bytes of none may depend on what else is computed.

    So the images and masks that go through a network together are this column's own, and a network whose output serves
    two columns sees one image at a time (:func:`stages.encoders.common.once_an_image`). A mask without a pixel has
    nothing to embed: its vector is zero, whatever the encoder.
    """
    spec, regions = collector.spec, _regions(collector.spec)
    assert spec.layout is not None
    limit, dim = spec.layout.row_shape
    stored = next((read for read in spec.reads if read.startswith("sam_features/")), None)
    troubles: list[tuple[str, str] | None] = []
    items: list[EncoderInput] = []
    filled: list[list[int]] = []  # of each image, which of its masks have a pixel
    for position, _, image_row, image in group:
        row = rows[position]
        trouble = row_trouble(image_row, "image") or row_trouble(row, regions)
        troubles.append(trouble or (shard.trouble(stored, position) if stored else None))
        filled.append([] if regions == "images" else [k for k, area in enumerate(row["area"][:limit]) if area])
        if troubles[-1]:
            continue
        assert image is not None
        if regions == "images":
            items.append(EncoderInput(image))
        elif filled[-1]:
            masks = RleMasks([row["segmentation"][k] for k in filled[-1]], *image.shape[:2])
            items.append(EncoderInput(image, masks, array(stored, position) if stored else None))
    vectors = iter(model(items))
    for (position, index, _, _), trouble, places in zip(group, troubles, filled, strict=True):
        if trouble:
            collector.failed(index, *trouble)
        elif regions == "images":
            collector.array(index, next(vectors))
        else:
            count = len(rows[position]["segmentation"])
            found = np.zeros((min(count, limit), dim), np.float32)
            if places:
                found[places] = next(vectors)
            collector.array(index, found, max(0, count - limit))
