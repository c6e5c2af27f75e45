"""Trains a tiny head that predicts, from a mask's vector alone, its IoU with the answer of a question about the image.

Shows `store.torch.loader`, and its state_dict saved within an epoch. Run from the repository root, after `make repro`:

    .venv/bin/python docs/examples/train_with_torch.py --checkpoint head.pt --stop-after 7  # then without --stop-after
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

# In your own training code, after `pip install dist/elisa_store-*.whl`, this is: from elisa_store...
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from store import StoreError, open_split
from store.torch import loader


def loss_of(head: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean squared error over the masks that exist: vectors float16 [B, K, D], mask bool [B, K], iou float32 [B, K]."""
    there = batch["vectors_mask"]
    errors = head(batch["vectors"][there].float())[:, 0] - batch["iou"][there]
    return errors.square().sum() / max(1, len(errors))  # images without masks may fill a batch


def train(arguments: argparse.Namespace) -> None:
    """Train from the checkpoint, if there is one, to the end or up to `--stop-after`."""
    split = open_split(arguments.store, arguments.dataset, arguments.split, proposer=arguments.proposer)
    names = {"vectors": arguments.column, "iou": "match/targets.iou"}
    batches = loader(split.stream(names, 4, shuffle=True, seed=0, level="target", failed="skip"))
    torch.manual_seed(0)
    width = split.column(arguments.column).meta.array.row_shape[-1]
    head = torch.nn.Sequential(torch.nn.Linear(width, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    parts = {"head": head, "optimizer": optimizer, "loader": batches}
    if (file := arguments.checkpoint) and file.exists():
        for name, state in torch.load(file, weights_only=True).items():
            parts[name].load_state_dict(state)
    step = 0
    while (at := batches.state_dict())["epoch"] < arguments.epochs:
        losses = []
        for batch in batches:
            loss = loss_of(head, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
            if file and step == arguments.stop_after:
                torch.save({name: part.state_dict() for name, part in parts.items()}, file)
                return print(f"stopped after {step} steps; wrote {file}")
        mean = sum(losses) / max(1, len(losses))
        print(f"epoch {at['epoch']} from sample {at['position']}: {len(losses)} steps, loss {mean:.5f}")


def main() -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--split", default="val")
    parser.add_argument("--proposer", default="demo_sam", help="whose masks")
    parser.add_argument("--column", default="mask_embeddings/demo_alphaclip")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--stop-after", type=int, default=0, help="steps; 0: train to the end")
    try:
        train(parser.parse_args())
    except (StoreError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
