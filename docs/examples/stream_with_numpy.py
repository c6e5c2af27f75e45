"""Streams shuffled batches of numpy arrays, stops half way, and goes on from a state that was saved as JSON.

Run from the repository root, after `make repro`:

    .venv/bin/python docs/examples/stream_with_numpy.py --store data/store --dataset demo --split val

The second half is read with another batch size: the order is decided by seed and epoch alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

# In your own training code, after `pip install dist/elisa_store-*.whl`, this is: from elisa_store import ...
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from store import Split, StoreError, Stream, open_split


def make_stream(split: Split, column: str, batch_size: int) -> Stream:
    """Questions of the split in random order, each with the vectors of its image's masks."""
    names = {"vectors": column, "texts": "targets.texts"}
    return split.stream(names, batch_size, shuffle=True, seed=0, level="target", failed="skip")


def take(stream: Stream, batches: int) -> int:
    """Print up to this many batches; returns how many questions came."""
    questions = 0
    for number, batch in enumerate(stream, start=1):
        vectors, there = batch["vectors"], batch["vectors_mask"]  # float16 [B, K, D], bool [B, K]
        lengths = np.linalg.norm(vectors[there].astype(np.float32), axis=-1)
        mean = lengths.mean() if len(lengths) else 0.0
        questions += len(batch["texts"])
        first = f"image {batch['image_index'][0]}, {batch['texts'][0][0]!r}"
        print(f"  {list(vectors.shape)}, {there.sum()} masks, mean length {mean:.3f}; first: {first}")
        if number == batches:
            break
    return questions


def main() -> int:
    """Parse the command line and stream an epoch in two parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--split", default="val")
    parser.add_argument("--proposer", default="demo_sam", help="whose masks")
    parser.add_argument("--column", default="mask_embeddings/demo_alphaclip")
    arguments = parser.parse_args()
    try:
        split = open_split(arguments.store, arguments.dataset, arguments.split, proposer=arguments.proposer)
        stream = make_stream(split, arguments.column, batch_size=4)
        print(f"the first half of {stream.schedule.samples} questions, 4 per batch")
        came = take(stream, max(1, len(stream) // 2))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.json"
            file.write_text(json.dumps(stream.state_dict()))
            later = make_stream(split, arguments.column, batch_size=6)  # as a new process would
            later.load_state_dict(json.loads(file.read_text()))
        print("the rest, 6 per batch")
        came += take(later, len(later))
        print(f"{came} of {stream.schedule.samples} questions came, each once")
    except (StoreError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
