"""A data set ``words`` that borrows pictures of the tiny project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from store.format.column import read_column
from store.format.layout import column_dir
from store.format.shard import read_commit
from store.format.tables import read_table

TRAIN = ("ant", "cat", "fox")  # the fox is in the holder's split val
TEST = ("elk", "gnu")


def annotate(project: Any, split: str, name: str, seed: int = 0) -> Path:
    """A question about an image that ``words`` does not hold."""
    folder = project.folder / "words" / split
    folder.mkdir(parents=True, exist_ok=True)
    x = 4 + 3 * seed
    corners = [[x, 4], [x + 20, 4], [x + 20, 30], [x, 30]]
    shapes = [{"label": "target", "points": corners}]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"shapes": shapes, "text": [f"in other words, the {name}"], "is_sentence": True}))
    return Path(path)


def borrow(project: Any, first: bool = False, **changes: Any) -> Any:
    """The project with a data set ``words`` that borrows images; ``first``: it stands before its holder in the params."""
    for seed, name in enumerate(TRAIN):
        annotate(project, "train", name, seed)
    for seed, name in enumerate(TEST):
        annotate(project, "test", name, seed)
    values = project.values
    words = {
        "format": "reasonseg",
        "images": "tiny",
        "root": str(project.folder / "words"),
        "splits": ["train", "test"],
    }
    values["data"] = {"words": words, **values["data"]} if first else {**values["data"], "words": words}
    values["means"] = {"tiny": {"train": changes.get("train", ["tiny/train"])}}
    values["train"]["train"] = ["tiny/train"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return project


def rows(project: Any, place: str) -> list[dict[str, Any]]:
    folder = column_dir(project.store, place)
    meta = read_column(folder)
    assert meta is not None
    commits = [read_commit(folder, shard) for shard in range(meta.shards)]
    return [row for commit in commits if commit is not None for row in read_table(folder, commit).to_pylist()]
