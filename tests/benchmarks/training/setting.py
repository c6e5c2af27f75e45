"""What is trained on what: a params file, checkpoints, and the rule about which ratios may be quoted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.params_file import load_settings
from pipeline.upstream import place_of
from stages.images import inside, read_image
from stages.names import SplitRef
from stages.train.run import system_class
from stages.weights import locate
from store import Split, open_split
from store.format.layout import column_dir
from store.format.names import with_proposer
from store.stream.request import companion

SIDES = {
    "a": "(a) store",
    "b": "(b) JSONL",
    "c1": "(c1) original's encoders re-run",
    "c2": "(c2) everything re-run",
}
RERUN = {"elisa": ("features",), "llmseg": ("features", "masks"), "lisa": ("features", "sam")}
"""System -> keys of a batch that the original computes in each step: CLIP, DINOv2 under the proposals, SAM's encoder."""


@dataclass(frozen=True)
class Setting:
    """A finished store, its images, and the models that made it.

    Args:
        settings: with ``run.device`` as it is to be.
        paths: name of a checkpoint -> file, for those that nobody publishes (random weights).
    """

    settings: Settings
    paths: Mapping[str, Path] | None = None

    @property
    def split(self) -> SplitRef:
        """The first of the splits to train on."""
        return SplitRef.of(self.settings.train.train[0])

    @property
    def device(self) -> str:
        """Cpu or cuda."""
        return self.settings.run.device

    def open(self, columns: Sequence[str] | None = None) -> Split:
        """Open the split, with these columns or all."""
        where = self.settings.store_path, self.split.dataset, self.split.split
        return open_split(*where, columns=columns, proposer=self.settings.proposer)

    def column(self, name: str) -> str:
        """The column that a name stands for where it leaves the proposer out."""
        return with_proposer(name, str(self.settings.proposer))

    def weights(self, name: str) -> Path:
        """The file of a checkpoint."""
        if self.paths is not None:
            return self.paths[name]
        return locate(name, ROOT / self.settings.run.weights_dir, self.settings.weights_lock)

    def pixels(self, path: str) -> Any:
        """An image as the original decodes it in each step: uint8 [H, W, 3]."""
        root = self.settings.folders(self.split.dataset).folders[0]
        return read_image(inside(root, path), self.settings.data[self.split.dataset].max_pixels)


def open_setting(params: Path, device: str, overrides: Sequence[str] = ()) -> Setting:
    """The setting of a params file whose data are there.

    Raises:
        InputError: they are not; the message names the command.
    """
    settings = load_settings(params, [*overrides, f"run.device={device}"])
    split = SplitRef.of(settings.train.train[0])
    for folder in (
        column_dir(settings.store_path, place_of(settings, split, "images")),
        settings.folders(split.dataset).folders[0],
    ):
        if not folder.is_dir():
            raise InputError(f"found no folder {folder}, which the benchmark reads; run: make repro")
    return Setting(settings)


def vector_columns(setting: Setting, system: str) -> dict[str, str]:
    """Those of the keys ``features``, ``masks`` and ``sam`` that a system trains on -> columns."""
    names = system_class(system).columns(setting.settings.train, training=True)
    return {key: setting.column(names[key]) for key in ("features", "masks", "sam") if key in names}


def as_embedded(column: str) -> str:
    """The column of the same vectors without a mean taken away."""
    parts = column.split("/")
    return "/".join(parts[2:] if parts[0] == "centered" else parts)


def rerun_columns(setting: Setting, system: str, side: str) -> set[str]:
    """The columns that a side computes again in each step."""
    from stages.proposers.sam import features_column

    vectors = vector_columns(setting, system)
    if side == "b":  # ELISA's JSONL holds masks alone; the two others have none, so theirs holds all
        return {vectors["features"]} if system == "elisa" else set()
    if side == "c1":
        return {vectors[key] for key in RERUN[system]}
    wanted = {setting.column(name) for name in ("masks", "match/targets", "match/instances")} | {vectors["features"]}
    wanted |= {features_column(name) for name in setting.settings.embed.sam_features}
    if "masks" in vectors:
        stored = as_embedded(vectors["masks"])
        wanted |= {stored, companion(stored), vectors["masks"], companion(vectors["masks"])}
    return wanted


def too_small(language_model: int, towers: Mapping[str, int]) -> str:
    """Why no ratio may be quoted; empty when one may.

    Args:
        language_model, towers: numbers of parameters. If the language model is smaller than the re-run models, any store looks
            good.
    """
    largest = max(towers, key=lambda name: towers[name])
    if language_model >= towers[largest]:
        return ""
    return (
        f"no ratio: the language model has {language_model / 1e6:.1f} million parameters, {largest} has "
        f"{towers[largest] / 1e6:.1f} million"
    )
