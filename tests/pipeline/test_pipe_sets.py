"""Several data sets in one params file, their splits on the command line, parts of the work, and the verb ``params``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import parameters
from pipeline.compute import in_part
from pipeline.config import InputError, Settings
from pipeline.graph import wanted_fingerprint
from pipeline.params_file import load_settings
from stages.names import SplitRef
from store import open_split


def two_sets(project: Any, **more: Any) -> Any:
    """The project with a second data set ``other``, which has one of the two splits, and its pictures elsewhere."""
    values = project.values
    other = {"format": "reasonseg", "images": "other", "root": str(project.folder / "other-set"), "splits": ["val"]}
    values["data"]["other"] = {**other, **more}
    for section in (values["means"]["tiny"], values["train"]):
        section["train"] = ["tiny/train"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return project


@pytest.fixture
def settings(empty: Any) -> Settings:
    return load_settings(two_sets(empty).params)


def test_a_split_is_meant_in_every_data_set(settings: Settings) -> None:
    assert list(map(str, settings.splits)) == ["tiny/train", "tiny/val", "other/val"]
    assert list(map(str, settings.select("val"))) == ["tiny/val", "other/val"]
    assert list(map(str, settings.select("train"))) == ["tiny/train"]
    assert list(map(str, settings.select(data=["other"]))) == ["other/val"]
    assert list(map(str, settings.evaluated)) == ["tiny/val", "other/val"]
    assert settings.options(SplitRef("other", "val")) == "--data other --split val"


@pytest.mark.parametrize(
    ("split", "data", "words"),
    [
        ("vall", [], "--split: found 'vall', expected one of train, val .*did you mean 'val'"),
        ("train", ["other"], "--split: found 'train', expected one of val "),
        (None, ["othr"], "--data: found 'othr', expected one of tiny, other .*did you mean 'other'"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    settings: Settings, split: str | None, data: list[str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        settings.select(split, data)


def test_a_bare_name_is_a_split_of_the_only_data_set(empty: Any) -> None:
    assert load_settings(empty.params, ["train.train=[val]"]).train.train == ("tiny/val",)
    assert load_settings(empty.params, ["evaluate.splits=[train]"]).evaluated == (SplitRef("tiny", "train"),)
    with pytest.raises(
        InputError, match="evaluate.splits: found 'val', expected splits of section data: tiny/train, t"
    ):
        load_settings(two_sets(empty).params, ["evaluate.splits=[val]"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.other.images=tinny", "data.other.images: found 'tinny', expected .*other itself, or tiny .*'tiny'"),
        ("data.other.splits=[val, val]", "a split appears twice"),
        ("data.other.format=cocoa", "found 'cocoa', expected one of reasonseg.*did you mean 'coco'"),
        (
            "data={means: {format: reasonseg, images: means, root: d, splits: [train]}}",
            "a folder of its own in the store",
        ),
        ("data={a.b: {format: reasonseg, images: a.b, root: d, splits: [train]}}", "letters, digits, '_' and '-', the"),
        ("runs={a.b: {system: elisa}}", "runs.a.b: found \"a.b\", expected letters, digits, '_' and '-', the first"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(empty: Any, change: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_settings(two_sets(empty).params, [change])


def test_a_holder_may_be_named_by_others(empty: Any) -> None:
    assert load_settings(two_sets(empty, images="tiny").params).data["other"].images == "tiny"
    with pytest.raises(InputError, match=r"data.tiny.images: found 'other', expected a data set that holds images"):
        load_settings(empty.params, ["data.tiny.images=other"])


def test_parameters_of_one_data_set_decide_no_other(empty: Any) -> None:
    def columns(*changes: str) -> dict[str, str]:
        found = load_settings(empty.params, changes)
        return {
            f"{dataset}/{name}": wanted_fingerprint(found, dataset, name)
            for dataset in found.data
            for name in ("images", "targets", "masks/sam", "mask_embeddings/sam/demo_sam")
        }

    two_sets(empty)
    before, after = columns(), columns("data.other.max_pixels=5000")
    assert {name for name in before if before[name] != after[name]} == {n for n in before if n.startswith("other/")}


def test_parts_share_out_all_shards(cli: Any) -> None:
    split = SplitRef("demo", "val")
    for count in (1, 3, 8):
        owners = [[part for part in range(count) if in_part(split, shard, (part, count))] for shard in range(200)]
        assert all(len(found) == 1 for found in owners)
        shares = [owners.count([part]) for part in range(count)]
        assert max(shares) - min(shares) <= 1, shares
    firsts = {part for name in "abcdefgh" for part in range(4) if in_part(SplitRef("demo", name), 0, (part, 4))}
    assert len(firsts) > 1, "splits of one shard all go to one part"
    assert [next(p for p in range(4) if in_part(split, shard, (p, 4))) for shard in range(8)] == PARTS
    for text in ("4/4", "1", "-1/4", "a/b", "1/0"):
        done = cli("index", "--part", text)
        assert (done.code, "expected I/N with I from 0 to N - 1" in done.err) == (2, True), done.err


PARTS = [2, 3, 0, 1, 2, 3, 0, 1]
"""Of the first shards of demo/val: they must not change, or parts that run on other versions leave gaps."""


def test_parts_of_an_index_number_the_images_as_the_first_one_does(tiny: Any) -> None:
    parts = [int(in_part(SplitRef("tiny", "train"), shard, (1, 2))) for shard in range(3)]
    first = parts[0]
    assert tiny.run("index", "--split", "train", "--part", f"{first}/2").code == 0
    tiny.add("train", "aaa", 77)  # while the parts are at work
    for part in (1 - first, first):
        assert tiny.run("index", "--split", "train", "--part", f"{part}/2").code == 0
    split = open_split(tiny.store, "tiny", "train")
    assert list(split.image_ids) == ["ant", "bee", "cat", "dog", "elk", "aaa"]
    assert "train: 0 of" not in tiny.run("index", "--split", "train").out
    assert "up to date" in tiny.run("index", "--split", "train").out


def test_another_order_of_the_same_images_is_a_conflict(finished: Any) -> None:
    from dataclasses import replace

    from store.errors import ConflictError
    from store.format.column import load_column
    from store.write.writer import begin_column

    folder = finished.store / "tiny/images/val"
    meta = load_column(folder)
    assert meta.sources is not None
    with pytest.raises(ConflictError, match="another run numbered the images first"):
        begin_column(folder, replace(meta, sources=meta.sources[::-1]))


def test_two_data_sets_are_indexed_side_by_side(tiny: Any) -> None:
    two_sets(tiny)
    for path in (tiny.data / "val").iterdir():
        target = tiny.folder / "other-set/val" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    done = tiny.run("index", "--split", "val")
    assert "index tiny/val: 2 of 2 shards computed" in done.out
    assert "index other/val: 2 of 2 shards computed" in done.out
    assert "index other/val: up to date" in (out := tiny.run("index", "--data", "other").out)
    assert "tiny" not in out
    metrics = [
        json.loads((tiny.folder / f"report/metrics/index/{name}/val.json").read_text()) for name in ("tiny", "other")
    ]
    assert [found["split"] for found in metrics] == ["tiny/val", "other/val"]
    assert metrics[0]["columns"] == metrics[1]["columns"]
    info = tiny.info()["splits"]
    assert "python cli.py index --data tiny --split train" in info["tiny/train"]["remark"]
    assert info["other/val"]["images"] == 3
    assert tiny.run("info", "--data", "tiny,other").code == 0


def test_params_prints_a_params_file(empty: Any, tmp_path: Path) -> None:
    done = empty.run("params", before=("--set", "run.prefetch=7"))
    path = tmp_path / "printed.yaml"
    path.write_text(done.out)
    assert load_settings(path).model_dump() == load_settings(empty.params, ["run.prefetch=7"]).model_dump()
    assert "max_failures: 0" in done.out


def test_params_documents_every_parameter(cli: Any) -> None:
    done = cli("--params", "no-such-file", "params", "--doc")
    assert done.code == 0
    lines = done.out.splitlines()
    for name, field in parameters.fields(Settings):
        (number,) = (n for n, line in enumerate(lines) if line.split("  ")[0] == name)
        assert lines[number + 1].startswith("    ")
        assert len(lines[number + 1].strip()) > 3, name
        assert field.description
    assert "embed.max_masks  (default: 64)" in lines
    assert "data.NAME.format  (required)" in lines
    assert "proposers.NAME.kind  (default: sam)" in lines  # as an entry without a kind has it
