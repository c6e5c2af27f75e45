"""An edit in a file that annotates a whole data set, through ``index``: the shard of that image is stale, and no other."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from written_refer import HEIGHT, SQUARE, WIDTH, ref, thing, write_instances, write_refs

NUMBERS = (3, 5, 7, 9, 11)


def bring(project: Any, *changed: tuple[int, str], numbers: tuple[int, ...] = NUMBERS[:4]) -> None:
    """Write the files of refs, each at once. changed: number of a picture and what is said there."""
    new, folder = project.folder / "new", project.folder / "refcoco"
    folder.mkdir(exist_ok=True)
    said = {**{number: f"number {number}" for number in numbers}, **dict(changed)}
    write_refs(new, [ref(number, number, number, said[number]) for number in sorted(said)])
    things = [thing(number, number, [SQUARE], category_id=2 - number % 2) for number in NUMBERS]
    write_instances(new, things, NUMBERS)
    for path in new.iterdir():
        path.replace(folder / path.name)


@pytest.fixture
def indexed(empty: Any) -> Any:
    folder = empty.folder / "coco"
    folder.mkdir()
    for number in NUMBERS:
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(folder / f"{number:012d}.jpg")
    bring(empty)
    coco = {"format": "images", "images": "coco", "ids": "coco", "root": str(folder), "splits": ["all"]}
    refcoco = {"format": "refer", "images": "coco", "root": str(empty.folder / "refcoco"), "splits": ["train"]}
    empty.values["data"] = {"coco": coco, "refcoco": refcoco}
    empty.values["means"] = {"coco": {"train": ["coco/all"]}}
    empty.values["train"]["train"] = ["refcoco/train"]
    empty.params.write_text(yaml.safe_dump(empty.values, sort_keys=False))
    empty.build("index")
    return empty


def tables(shard: int) -> set[str]:
    return {f"refcoco/{name}/train#{shard}" for name in ("instances", "targets")}


def test_one_edited_annotation_makes_one_shard_stale(indexed: Any) -> None:
    commit = indexed.commits()["refcoco/targets/train#1"]
    assert [name for name in commit["upstream"] if name.startswith("file:")] == [
        "file:refs(unc).p#000000000007",
        "file:refs(unc).p#000000000009",
    ]
    before = indexed.times()
    bring(indexed, (9, "the one on the right"))
    columns = indexed.info()["splits"]["refcoco/train"]["columns"]
    assert columns["targets"]["shards"] == {"done": 1, "missing": 0, "stale": 1, "damaged": 0}
    assert columns["targets"]["why"] == columns["instances"]["why"] == ["stale: refs(unc).p#000000000009 changed"]
    assert columns["images"]["shards"]["done"] == 2
    indexed.build("index")
    assert indexed.recomputed(before) == tables(1)

    before = indexed.times()
    bring(indexed, (9, "the one on the right"), numbers=NUMBERS)
    indexed.build("index")
    assert {name.rpartition("#")[2] for name in indexed.recomputed(before) if name in tables(0) | tables(1)} == set()
    assert tables(2) <= indexed.recomputed(before)


def test_a_file_that_changes_while_it_is_indexed_is_not_committed(
    indexed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.index

    real, before, one_at_a_time = stages.index.annotation_of, indexed.times(), threading.Lock()
    meanwhile = [lambda: bring(indexed, (3, "edited"), (9, "edited twice"))]

    def edited_meanwhile(*arguments: Any) -> Any:
        with one_at_a_time:
            meanwhile[-1]()
        return real(*arguments)

    monkeypatch.setattr(stages.index, "annotation_of", edited_meanwhile)
    bring(indexed, (3, "edited"))
    indexed.build("index")  # the edit meanwhile is of an image of another shard
    assert indexed.recomputed(before) == tables(0)

    before = indexed.times()
    bring(indexed, (3, "edited"), (9, "edited once"))
    done = indexed.run("index")
    assert done.code == 75
    assert "refs(unc).p#000000000009 changed or went away while it was read" in done.err
    assert indexed.recomputed(before) == set()

    meanwhile.append(lambda: bring(indexed, numbers=NUMBERS[:3]))
    bring(indexed, (3, "edited"), (9, "edited once"))
    done = indexed.run("index")
    assert done.code == 75
    assert "refs(unc).p#000000000009 changed or went away while it was read" in done.err

    meanwhile.append(lambda: (indexed.folder / "refcoco/refs(unc).p").write_bytes(b"("))
    bring(indexed, (3, "edited"), (9, "edited once"))
    done = indexed.run("index")
    assert done.code == 75
    assert "a file changed or went away while it was read: " in done.err

    meanwhile.append(lambda: None)
    bring(indexed, (3, "edited"), (9, "edited twice"))
    indexed.build("index")
    assert indexed.recomputed(before) == tables(1)
