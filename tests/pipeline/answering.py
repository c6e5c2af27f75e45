"""Finished runs without a model, and their answers, for tests of what is made of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.params_file import load_settings
from stages.evaluate import Meta, Prediction, write
from stages.train.run_digest import answering, identity, run_digest
from store import rle


def run_of(project: Any, name: str, system: str | None = None, overrides: Sequence[str] = (), **about: Any) -> Path:
    """The folder of a finished run of the project's parameters."""
    settings = load_settings(project.params, list(overrides))
    folder = Path(settings.run.train_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    found = {**identity(settings.train, system or name, {}), **about}
    (folder / "run.json").write_text(json.dumps({**found, "history": [{"loss": 1.0, "step": 7, "epoch": 1.0}]}))
    return folder


def answers_of(project: Any, name: str, place: str, given: Sequence[Prediction], **meta: str) -> Path:
    """Write a run's answers to ``dataset/split`` as its training would ask for them."""
    settings = load_settings(project.params)
    folder = Path(settings.run.train_dir) / name
    about = json.loads((folder / "run.json").read_text())
    dataset, split = place.split("/")
    path = folder / f"predictions/{dataset}/{split}.parquet"
    told = {"run": run_digest(about), "answering": json.dumps(answering(settings.train, about["system"])), **meta}
    write(path, Meta(name, dataset, split, **told), given)
    return path


def guesses(names: Sequence[str], seed: int, size: tuple[int, int] = (4, 6)) -> list[Prediction]:
    """Random masks, a fifth of them empty."""
    rng = np.random.default_rng(seed)
    return [
        Prediction(name, 0, rle.encode(rng.random(size) < 0.5) if rng.random() < 0.8 else None, None) for name in names
    ]
