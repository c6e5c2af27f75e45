"""Feeds a jitted JAX step from a stream: fits a linear map from a mask's vector to its IoU with a question's answer.

Needs jax (`pip install jax`). Run from the repository root, after `make repro`:

    .venv/bin/python docs/examples/stream_with_jax.py --store data/store --dataset demo --split val

Padded batches with `tail="drop"` all have one shape, so the step is compiled once. For grain, a split is a
RandomAccessDataSource as it is: `grain.MapDataset.source(split).shuffle(seed=0)`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# In your own training code, after `pip install dist/elisa_store-*.whl`, this is: from elisa_store import ...
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from store import StoreError, open_split

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError:
    print("error: this example needs jax; type: pip install jax", file=sys.stderr)
    raise SystemExit(2) from None


def loss(weights: jax.Array, vectors: jax.Array, there: jax.Array, iou: jax.Array) -> jax.Array:
    """Mean squared error over the masks that exist: float16 [B, K, D], bool [B, K], float32 [B, K]."""
    guess = vectors.astype(jnp.float32) @ weights[:-1] + weights[-1]
    return jnp.sum(jnp.where(there, guess - iou, 0) ** 2) / jnp.maximum(there.sum(), 1)


@jax.jit
def step(weights: jax.Array, *batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One step of gradient descent."""
    value, gradient = jax.value_and_grad(loss)(weights, *batch)
    return weights - 0.1 * gradient, value


def fit(arguments: argparse.Namespace) -> None:
    """Go through the epochs and print the mean loss of each."""
    split = open_split(arguments.store, arguments.dataset, arguments.split, proposer=arguments.proposer)
    names = {"vectors": arguments.column, "iou": "match/targets.iou"}
    how = {"shuffle": True, "seed": 0, "level": "target", "tail": "drop", "failed": "skip"}
    stream = split.stream(names, batch_size=arguments.batch_size, **how)
    weights = jnp.zeros(split.column(arguments.column).meta.array.row_shape[-1] + 1)
    for epoch in range(arguments.epochs):  # the stream begins the next epoch by itself, in another order
        losses = []
        for batch in stream:
            weights, value = step(weights, *(jnp.array(batch[key]) for key in ("vectors", "vectors_mask", "iou")))
            losses.append(float(value))
        print(f"epoch {epoch}: {len(losses)} batches, loss {sum(losses) / max(1, len(losses)):.5f}")
    print(f"compiled {step._cache_size()} time(s)")


def main() -> int:
    """Parse the command line and fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--split", default="val")
    parser.add_argument("--proposer", default="demo_sam", help="whose masks")
    parser.add_argument("--column", default="mask_embeddings/demo_alphaclip")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    try:
        fit(parser.parse_args())
    except (StoreError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
