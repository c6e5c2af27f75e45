"""The project's own stages over the images of one batch, in memory: what training without a store runs in each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import ROOT
from pipeline.graph import is_reduced
from stages import center, embed, masks, match
from stages.base import ShardInput
from stages.proposers.sam import encoder as sam_encoder
from store.format.schema import OK
from store.read.column import open_column
from store.write.writer import ShardData
from tests.benchmarks.training.setting import Setting

STAGES: tuple[Any, ...] = (masks, embed, match, center)
"""In the order they run."""


class Rerun:
    """Models that stay loaded; called, they compute columns of a few images.

    Args:
        wanted: names of columns.
        official: SAM's image encoder as segment_anything has it, which is what LISA runs, and not as the engine has it.
    """

    def __init__(self, setting: Setting, wanted: set[str], official: bool) -> None:
        settings = setting.settings
        sections = settings.of(setting.split.dataset)
        found = [(stage, [spec for spec in stage.columns(sections) if spec.name in wanted]) for stage in STAGES]
        specs = [spec for _, own in found for spec in own]
        means = {read for spec in specs for read in spec.reads if is_reduced(settings, read)}
        self.means = {name: open_column(settings.store_path, name).array(0) for name in means}
        weights = {name: setting.weights(name) for spec in specs for name in spec.weights}
        with _official_encoder() if official else nullcontext():
            self.runners = [
                stage.start(sections, [spec.name for spec in own], weights, ROOT) for stage, own in found if own
            ]

    def __call__(
        self, images: Sequence[Any], known: Mapping[str, Sequence[dict[str, Any]]]
    ) -> dict[str, Sequence[Any]]:
        """Column -> rows: of tables dicts, of arrays vectors [count, ...].

        Args:
            images: uint8 [H, W, 3].
            known: rows of tables that are not computed here; ``image_index`` is the position among ``images``.
        """
        fine = [{"status": OK, "error": None} for _ in images]
        done: dict[str, Sequence[Any]] = {"images": fine, **known}
        shard = ShardInput(
            indices=range(len(images)),
            rows=lambda name: list(done[name]),
            array=lambda name, position: self.means[name] if name in self.means else done[name][position],
            trouble=lambda name, position: None,
            pixels=lambda: iter(images),
            tick=lambda count: None,
        )
        for runner in self.runners:
            made: dict[str, ShardData] = runner(shard)
            done |= {name: data.rows for name, data in made.items()}
        return done


@contextmanager
def _official_encoder() -> Iterator[None]:
    """Generators that are made meanwhile run the official encoder, with weights and inputs of ``dtype``."""

    def plain(encoder: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        encoder.to(dtype)
        return lambda pixels: encoder(pixels.to(dtype)).float()

    fast, sam_encoder.FastEncoder = sam_encoder.FastEncoder, plain  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        sam_encoder.FastEncoder = fast  # type: ignore[misc]
