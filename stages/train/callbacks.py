"""What happens between training steps: complete checkpoints, curves, and one line per minute."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.progress import QUIET_SECONDS, left
from stages.train.folder import PLACE, sync_files, write_record
from store.torch import Loader


class KeepPlace(TrainerCallback):  # type: ignore[misc]
    """Writes the loader's position into each checkpoint, as its last file; then removes the checkpoint before it."""

    def __init__(self, data: Loader) -> None:
        self.data = data

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """After a checkpoint was written."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank has written its part
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sync_files(folder)
        place = {"step": state.global_step, "processes": args.world_size, "loader": self.data.state_dict()}
        write_record(folder / PLACE, place)
        for path in folder.parent.glob("checkpoint-*"):
            if path != folder:
                shutil.rmtree(path)


class Curves(TrainerCallback):  # type: ignore[misc]
    """Writes what the Trainer logs as DVCLive's metrics and plots to ``folder``.

    Only for the first rank.

    Args:
        digest: of the run; it stands in ``folder/run.json``.
        step: where a stopped run goes on; entries it logged for later steps are logged again; None: a new run.
    """

    def __init__(self, folder: Path, digest: str, step: int | None) -> None:
        from dvclive import Live

        if step is not None:
            _cut(folder, step)
        self.live = Live(dir=str(folder), resume=step is not None, dvcyaml=None, save_dvc_exp=False)
        folder.mkdir(exist_ok=True)
        write_record(folder / "run.json", {"digest": digest})

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **rest: Any
    ) -> None:
        """After ``logging_steps`` updates, and at the end."""
        self.live.step = state.global_step
        for name, value in (logs or {}).items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Write what is left."""
        self.live.end()

    def close(self) -> None:
        """Close the repository that DVCLive opened to note its revision."""
        if (repository := getattr(self.live, "_dvc_repo", None)) is not None:
            repository.close()


def _cut(folder: Path, step: int) -> None:
    """Remove the rows of later steps from DVCLive's tables."""
    for path in (folder / "plots/metrics").rglob("*.tsv"):
        heading, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [
            row
            for row in rows
            if row.endswith("\n") and row.partition("\t")[0].isdigit() and int(row.split("\t")[0]) <= step
        ]
        path.write_text("".join([heading, *kept]), encoding="utf-8")


class Lines(TrainerCallback):  # type: ignore[misc]
    """Prints one line per minute, and one at the end, in place of a progress bar."""

    def __init__(self, name: str) -> None:
        self.name, self.loss, self.rate = name, "", ""
        self.began = self.last = time.monotonic()
        self.first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any
    ) -> None:
        """Start the clock."""
        self.began = self.last = time.monotonic()
        self.first = state.global_step
        self._say(f"step {state.global_step} of {state.max_steps}")

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **rest: Any
    ) -> None:
        """Keep what the next line says."""
        if logs and "loss" in logs:
            self.loss = f", loss {float(logs['loss']):.4g}"
            self.rate = f", learning rate {float(logs['learning_rate']):.3g}" if "learning_rate" in logs else ""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Print a line if the last one is a minute old."""
        if time.monotonic() - self.last >= QUIET_SECONDS:
            self._say(self._line(state))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Print the last line."""
        self._say(self._line(state))

    def _line(self, state: TrainerState) -> str:
        done = state.global_step - self.first
        speed = done / max(time.monotonic() - self.began, 1e-9)
        rest = f", {speed:.3g} steps/s, {left((state.max_steps - state.global_step) / speed)} left" if done else ""
        return f"step {state.global_step} of {state.max_steps}{self.loss}{self.rate}{rest}"

    def _say(self, text: str) -> None:
        self.last = time.monotonic()
        print(f"train {self.name}: {text}", file=sys.stderr, flush=True)
