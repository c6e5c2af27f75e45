"""Asks the Parquet tables with SQL: the questions whose best mask has the lowest IoU, which no selector could answer well.

Needs duckdb (`pip install duckdb`); nothing of this project is imported. It trusts the files: each shard
records whether its table is finished and from which inputs it was made, and only our own reader checks that. Run from the
repository root, after `make repro`:

    .venv/bin/python docs/examples/query_with_duckdb.py --store data/store --dataset demo --split val
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

try:
    import duckdb
except ModuleNotFoundError:
    print("error: this example needs duckdb; type: pip install duckdb", file=sys.stderr)
    raise SystemExit(2) from None

WORST = """
SELECT images.image_id, images.path, targets.texts[1] AS question, len(iou) AS masks, coalesce(list_max(iou), 0) AS best_iou
FROM matches JOIN targets USING (target_id, image_index) JOIN images USING (image_index)
WHERE len(targets.instances) > 0
ORDER BY best_iou, target_id
LIMIT ?
"""
MEANS = """
SELECT count(*), avg(coalesce(list_max(iou), 0))
FROM matches JOIN targets USING (target_id, image_index)
WHERE len(targets.instances) > 0
"""


def connect(dataset: Path, split: str, proposer: str) -> duckdb.DuckDBPyConnection:
    """A connection in memory where each table of the split is a view over its shards."""
    connection = duckdb.connect()
    tables = {"images": "images", "targets": "targets", "matches": f"match/{proposer}/targets"}
    for view, column in tables.items():
        connection.read_parquet(str(dataset / column / split / "*.parquet")).create_view(view)
    return connection


def main() -> int:
    """Parse the command line and print the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--split", default="val")
    parser.add_argument("--proposer", default="demo_sam", help="whose masks")
    parser.add_argument("--limit", type=int, default=5)
    arguments = parser.parse_args()
    dataset, split = arguments.store / arguments.dataset, arguments.split
    if not (dataset / "images" / split / "column.json").is_file():
        print(f"error: {dataset} holds no indexed split {split}; make the demo's with: make repro", file=sys.stderr)
        return 2
    try:
        connection = connect(dataset, split, arguments.proposer)
    except duckdb.IOException as error:
        print(f"error: {error}; see what is missing with: python cli.py info", file=sys.stderr)
        return 2
    answered, mean = connection.execute(MEANS).fetchone()
    print(f"{answered} questions with an answer, mean best IoU {mean or 0:.4f}; the worst:")
    for image_id, path, question, masks, best in connection.execute(WORST, [arguments.limit]).fetchall():
        print(f"{best:.4f} best of {masks} masks, image {image_id} ({path}): {question!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
