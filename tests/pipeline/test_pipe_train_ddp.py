"""Two processes train one model: each on its part of the batches, with the gradients of both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.config import ROOT

# What one rank does; "alone" says what it would become without the other.
RANK = """
import sys
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages.train.run import columns, train
from stages.train.trainer import save_trained
from stages.weights import locate
from store import open_split

params, folder, system = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


class Keep(TrainerCallback):
    def on_train_end(self, args, state, control, model=None, **rest):
        save_trained(model.model, folder / f"rank{args.process_index}.safetensors", {})


settings = load_settings(params, ["train.epochs=2", "train.batch_size=1", "run.device=cpu"])
split = open_split(settings.store_path, settings.splits[0].dataset, "train", columns=sorted(columns(settings.train, system)))
weights = partial(locate, folder=ROOT / "data/weights", lock=settings.weights_lock)
train(settings.train, system, {"train": split}, folder, "cpu", weights, callbacks=[Keep()])
"""


@pytest.mark.slow
@pytest.mark.parametrize("system", ["elisa", "lisa"])
def test_two_ranks_end_with_the_same_parameters(finished: Any, tmp_path: Path, system: str) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)

    def go(processes: int) -> list[dict[str, torch.Tensor]]:
        folder = tmp_path / str(processes)
        folder.mkdir()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        done = subprocess.run(
            [*command, script, finished.params, folder, system],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert (folder / "trained.safetensors").is_file()
        return [load_file(path) for path in sorted(folder.glob("rank*.safetensors"))]

    first, second = go(2)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    (alone,) = go(1)
    assert any(not torch.equal(first[name], alone[name]) for name in first)
