"""Where the vectors of a batch come from: the store, JSONL, or encoders that run in each step. Everything else is the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stages.train.run import batches, system_class
from store import Split, rle
from store.stream.request import companion
from tests.benchmarks.training.jsonl import Lines
from tests.benchmarks.training.rerun import Rerun
from tests.benchmarks.training.samples import Light, read_samples
from tests.benchmarks.training.setting import Setting, rerun_columns, vector_columns

Batch = dict[str, Any]
SAMPLES, LINES = "samples.pt", "features.jsonl"
"""Names of the files in a system's folder."""


class Source(Protocol):
    """Batches as the store's loader makes them."""

    encoding_s: float
    """Of the last batch, seconds in encoders and their transforms; the rest of the time to it is waiting for data."""

    def __iter__(self) -> Iterator[Batch]:
        """The steps of the first epoch."""


def open_source(setting: Setting, system: str, side: str, split: Split, folder: Path) -> Source:
    """The source of a side; ``folder`` has the files that all sides except the store need."""
    if side == "a":
        return FromStore(setting, system, split)
    lights = read_samples(folder / SAMPLES)
    rerun = Rerun(setting, rerun_columns(setting, system, side), official=side == "c1")
    lines = Lines(setting, system, folder / LINES) if side == "b" else None
    return FromElsewhere(setting, system, lights, rerun, lines)


class FromStore:
    """The project's own loader."""

    encoding_s = 0.0

    def __init__(self, setting: Setting, system: str, split: Split) -> None:
        kind: Any = system_class(system)
        self.loader = batches(setting.settings.train, kind, {str(setting.split): split})

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.loader)


class FromElsewhere:
    """Samples from memory, with vectors from JSONL or computed.

    Args:
        rerun: computes some columns of the batch's images; each image once, however many samples are of it.
        lines: what JSONL holds; None: the columns that are not computed come with the samples.
    """

    def __init__(
        self, setting: Setting, system: str, lights: Sequence[Light], rerun: Rerun, lines: Lines | None
    ) -> None:
        self.setting, self.system, self.lights, self.rerun, self.lines = setting, system, lights, rerun, lines
        self.columns = vector_columns(setting, system)
        self.fields = system_class(system).columns(setting.settings.train, training=True)
        self.encoding_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        for light in self.lights:
            self.encoding_s = 0.0
            batch = {key: value for key, value in light.items() if key != "about"}
            places = dict.fromkeys(sample["path"] for sample in light["about"])
            if self.rerun.runners:
                batch |= self._computed(light, list(places))
            if self.lines is not None:
                batch |= self._from_lines(light, self.lines)
            yield batch

    def _computed(self, light: Light, paths: list[str]) -> Batch:
        """What the stages make of the batch's images, a row per image, dealt out to its samples."""
        about = {sample["path"]: sample for sample in light["about"]}
        images = [self.setting.pixels(path) for path in paths]
        known = {
            table: [
                {"status": "ok", "error": None, "segmentation": masks, "area": [rle.area(mask) for mask in masks]}
                for masks in (about[path][table] for path in paths)
            ]
            for table in ("masks", "instances")
        }
        known[self.setting.column("masks")] = known.pop("masks")
        known["targets"] = [{"image_index": paths.index(one["path"]), **one["target"]} for one in light["about"]]
        start = time.perf_counter()
        made = self.rerun(images, known)
        self.encoding_s = time.perf_counter() - start
        place = [paths.index(sample["path"]) for sample in light["about"]]
        batch: Batch = {}
        for key in ("features", "sam"):
            if self.columns.get(key) in made:
                rows = made[self.columns[key]]
                batch[key] = torch.stack([torch.from_numpy(rows[number]) for number in place])
        if self.columns.get("masks") in made:
            batch["masks"] = _dealt(light, lambda number: self._vectors(made, place[number]))
        if self.setting.column("match/instances") in made:
            batch |= self._matched(light, made, place)
        return batch

    def _vectors(self, made: dict[str, Sequence[Any]], place: int) -> tuple[Tensor, Tensor]:
        name = self.columns["masks"]
        instances = made.get(companion(name))
        own = torch.from_numpy(made[name][place])
        return own, own[:0] if instances is None else torch.from_numpy(instances[place])

    def _matched(self, light: Light, made: dict[str, Sequence[Any]], place: list[int]) -> Batch:
        """Boxes and overlaps of the proposals that were just made, where the stored ones stood."""
        targets = {(row["image_index"], row["target_id"]): row for row in made[self.setting.column("match/targets")]}
        batch = {}
        for key, name in self.fields.items():
            table, _, field = name.rpartition(".")
            if table not in ("masks", "match/targets", "match/instances"):
                continue
            values = light[key].clone() if isinstance(light[key], Tensor) else [list(one) for one in light[key]]
            for number, index in enumerate(_candidates(light)):
                asked = (place[number], light["about"][number]["target"]["target_id"])
                row = (targets[asked] if table == "match/targets" else made[self.setting.column(table)][place[number]])[
                    field
                ]
                for k, mask in enumerate(index):
                    if mask >= 0 and row:
                        values[number][k] = torch.as_tensor(row[min(mask, len(row) - 1)])
            batch[key] = values
        return batch

    def _from_lines(self, light: Light, lines: Lines) -> Batch:
        paths = [sample["path"] for sample in light["about"]]
        batch: Batch = {}
        if "masks" in self.columns:
            batch["masks"] = _dealt(light, lambda number: lines.masks(paths[number]))
        if self.columns["features"] not in rerun_columns(self.setting, self.system, "b"):
            batch["features"] = torch.stack([lines.image(path, "image_features") for path in paths])
        if "sam" in self.columns:
            batch["sam"] = torch.stack([lines.image(path, "sam_features") for path in paths])
        return batch


def _candidates(light: Light) -> list[list[int]]:
    """Of each sample its candidates: the position of a mask, or -1 - j of instance j."""
    if "candidates" not in light:
        return [[] for _ in light["about"]]
    pairs = zip(light["candidates"], light["candidates_mask"], strict=True)
    return [index[there].tolist() for index, there in pairs]


def _dealt(light: Light, vectors: Callable[[int], tuple[Tensor, Tensor]]) -> Tensor:
    """The vectors of each sample's candidates, [B, width, D], zeros behind them."""
    rows = []
    for number, index in enumerate(_candidates(light)):
        masks, instances = vectors(number)
        # A GPU may find one proposal more or fewer than when the store was made; the last one replaces a missing one.
        rows.append([masks[min(k, len(masks) - 1)] if k >= 0 else instances[-1 - k] for k in index])
    out = torch.zeros(light["masks"].shape)
    for place, row in zip(out, rows, strict=True):
        if row:
            place[: len(row)] = torch.stack(row)
    return out
