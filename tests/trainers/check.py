"""``make check-trainers``: accelerate, Lightning and the Hugging Face Trainer train on a loader, alone and as two processes.

Each drives it as its users write it (:mod:`tests.trainers.drive`), with batch size and ranks of its own; is stopped within an epoch
and goes on from its own checkpoint. Which samples the model saw is compared with the order that the seed decides.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from store.stream.schedule import permutation
from tests.store.factory import full_store
from tests.trainers.drive import BATCH_SIZE, DRIVERS, EPOCHS, STOPPED

IMAGES, SEED = 24, 1
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = {"trainer": "transformers"}


class TrainerError(Exception):
    """A training did not see what it should have seen."""


def expected(rank: int, processes: int) -> list[int]:
    """The images that a rank sees in a whole training, in order."""
    return [image for epoch in range(EPOCHS) for image in permutation(IMAGES, SEED, epoch).tolist()[rank::processes]]


def compare(name: str, found: list[dict[str, Any]]) -> None:
    """Compare what each rank saw. Raises TrainerError."""
    for rank, seen in enumerate(found):
        whole, part = expected(rank, len(found)), STOPPED * BATCH_SIZE
        for what, want in (("whole", whole), ("stopped", whole[:part]), ("resumed", whole[part:])):
            if seen[what] != want:
                raise TrainerError(
                    f"{name}, rank {rank} of {len(found)}, {what}: saw images {seen[what]}, expected {want}"
                )
        for what in ("whole weights", "resumed weights"):
            if max(abs(a - b) for a, b in zip(seen[what], found[0]["whole weights"], strict=True)) > 1e-6:
                raise TrainerError(
                    f"{name}, rank {rank}: {what} are {seen[what]}, expected {found[0]['whole weights']}"
                )


def run(name: str, store: Path, folder: Path, processes: int) -> list[dict[str, Any]]:
    """Train in processes of their own; what each rank saw."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "tests.trainers.drive", name, str(store), str(folder)]
    quiet = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True)
    if done.returncode:
        raise TrainerError(f"{name}, {processes} processes: exit code {done.returncode}\n{done.stderr[-4000:]}")
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


def main() -> int:
    """Print a line for each; the exit code."""
    with tempfile.TemporaryDirectory() as place:
        full_store(Path(place) / "store", IMAGES)
        for name in sys.argv[1:] or DRIVERS:
            version = importlib.metadata.version(PACKAGE.get(name, name))
            for processes in (1, 2):
                try:
                    compare(name, run(name, Path(place) / "store", Path(place) / f"{name}{processes}", processes))
                except TrainerError as error:
                    print(error, file=sys.stderr)
                    return 1
                print(
                    f"{name} ({PACKAGE.get(name, name)} {version}), {processes} process(es): every sample in its turn, resumed"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
