"""Every stage on both executors: the same bytes, a row per image, resumed and never done twice."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from factory import array_meta, vectors

from pipeline.compute import compute_stages
from pipeline.executors import LocalExecutor
from pipeline.graph import EXTRACTED, STAGES
from pipeline.params_file import load_settings
from store.format.layout import column_dir
from store.format.schema import OK
from store.write.writer import ShardData, begin_column, seen_commit, write_shard
from tests.benchmarks import stand_ins

COMMANDS = {
    "index": ("index",),
    "masks": ("extract", "--stage", "masks"),
    "embed": ("extract", "--stage", "embed"),
    "match": ("extract", "--stage", "match"),
    "means": ("normalize", "--stage", "means"),
    "center": ("normalize", "--stage", "center"),
}
FOLDERS = {
    "index": ("images", "instances", "targets"),
    "masks": ("masks", "sam_features"),
    "embed": ("mask_embeddings", "instance_embeddings", "image_features"),
    "match": ("match",),
    "means": ("means",),
    "center": ("centered",),
}
SIZES = {"train": (2, 2, 1), "val": (2, 1)}


def of_stage(values: dict[str, Any], stage: str) -> dict[str, Any]:
    """The shards of a stage's columns; a mean is ``means/tiny/sam/ENCODER#0``."""
    return {name: value for name, value in values.items() if name.split("/")[0] in FOLDERS[stage]}


@pytest.fixture(scope="module")
def on_dask(finished_once: Any, scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same data set, built by two Dask workers."""
    project = finished_once.copy(tmp_path_factory.mktemp("dask"))
    shutil.rmtree(project.store)
    for verb in ("index", "extract", "normalize"):
        done = project.run(verb, "--scheduler", scheduler)
        assert done.code == 0, done.err
    return project


@pytest.mark.parametrize("executor", ["local", "dask"])
@pytest.mark.parametrize("stage", STAGES)
class TestConformance:
    """What every stage owes, wherever it runs."""

    @pytest.fixture
    def built(self, request: pytest.FixtureRequest, executor: str) -> Any:
        return request.getfixturevalue("finished_once" if executor == "local" else "on_dask")

    @pytest.fixture
    def command(self, request: pytest.FixtureRequest, executor: str, stage: str) -> tuple[str, ...]:
        options = ("--scheduler", request.getfixturevalue("scheduler")) if executor == "dask" else ()
        return (*COMMANDS[stage], *options)

    def test_same_bytes(self, built: Any, finished_once: Any, stage: str) -> None:
        ours = of_stage(built.content(), stage)
        assert len(ours) >= (2 if stage == "means" else 10)
        assert ours == of_stage(finished_once.content(), stage)

    def test_a_row_an_image(self, built: Any, stage: str) -> None:
        for name, commit in of_stage(built.commits(), stage).items():
            place, _, shard = name.partition("#")
            column, _, split = place.rpartition("/")
            images = 1 if stage == "means" else SIZES[split][int(shard)]
            assert list(commit["status"]) == ["ok"] * images
            assert len(commit["counts"]) == images
            if commit["file"].endswith(".parquet"):
                table = pq.read_table(built.store / "tiny" / place / commit["file"])
                rows = sum(commit["counts"]) if column.endswith("targets") else images
                assert table.num_rows == rows
                first = 2 * int(shard)
                assert set(table["image_index"].to_pylist()) == set(range(first, first + images))

    def test_a_second_run_computes_nothing(self, built: Any, command: tuple[str, ...], stage: str) -> None:
        before = built.times()
        done = built.run(*command)
        assert done.code == 0, done.err
        assert "computed" not in done.out
        assert built.recomputed(before) == set()

    def test_it_computes_what_is_missing_and_no_more(
        self, built: Any, command: tuple[str, ...], stage: str, tmp_path: Path
    ) -> None:
        project = built.copy(tmp_path)
        content = project.content()
        lost = {name for name in of_stage(content, stage) if name.endswith("#1") or name.startswith("means")}
        for name in lost:
            project.shard_path(name).unlink()
        before = project.times()
        done = project.run(*command)
        assert done.code == 0, done.err
        assert project.recomputed(before) == lost
        assert project.content() == content


def test_an_error_in_a_worker_is_the_callers(tiny: Any, scheduler: str, tmp_path: Path) -> None:
    tiny.configure(proposers__sam__model="sam_vit_b", embed__mask_encoders=[], run__weights_dir=str(tmp_path / "none"))
    tiny.build("index --split val")
    done = tiny.run("extract", "--split", "val", "--stage", "masks", "--scheduler", scheduler)
    assert done.code == 2
    assert "type: python cli.py weights sam_vit_b" in done.err


def test_a_local_cluster_starts_and_ends_with_the_command(tiny: Any, finished_once: Any) -> None:
    child = tiny.child("index", "--executor", "dask")
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    ours = tiny.content()
    assert ours == {name: sha for name, sha in finished_once.content().items() if name in ours}


def test_a_done_shard_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, "d/mask_embeddings/sam/x/val")
    meta = begin_column(folder, array_meta(4))
    place = "d/mask_embeddings/sam/x/val"
    first, second = (ShardData(vectors([2] * 4, seed=seed), [2] * 4, [OK] * 4) for seed in (1, 2))
    kept = write_shard(folder, meta, place, 0, first, {}, None, {})
    with pytest.warns(UserWarning, match="theirs is kept"):
        assert write_shard(folder, meta, place, 0, second, {}, None, {}) == kept
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = write_shard(folder, meta, place, 0, second, {}, None, {}, seen_commit(folder, 0), again=True)
        assert other.seal != kept.seal
        (folder / "c/0/0/0").write_bytes(b"torn")
        assert write_shard(folder, meta, place, 0, first, {}, None, {}, seen_commit(folder, 0)).seal == kept.seal


def test_work_is_finished_while_the_next_is_begun_and_no_error_is_lost() -> None:
    finished: list[int] = []
    begun = threading.Event()

    def begin(task: int) -> Callable[[], None]:
        if task == 1:
            begun.set()

        def finish() -> None:
            assert task or begun.wait(10), "the next task was not begun"
            finished.append(task)

        return finish

    LocalExecutor().finish_behind(begin, [0, 1, 2])
    assert finished == [0, 1, 2]

    def broken(task: int) -> Callable[[], None]:
        if task:
            raise KeyboardInterrupt

        def finish() -> None:
            raise OSError("disk full")

        return finish

    with pytest.raises(KeyboardInterrupt) as caught:
        LocalExecutor().finish_behind(broken, [0, 1])
    assert "disk full" in caught.value.__notes__[0]
    with pytest.raises(OSError, match="disk full"):
        LocalExecutor().finish_behind(broken, [0])


def test_models_are_loaded_once_for_all_splits(tiny: Any) -> None:
    """Stages come one after another, not splits: each would load its models again."""
    tiny.build("index")
    settings, loaded = load_settings(tiny.params), list[str]()
    with stand_ins.installed(load=loaded.append):
        found = compute_stages(settings, EXTRACTED, settings.splits, LocalExecutor())
    assert loaded == ["masks", "embed", "match"]
    assert [(each.stage, str(each.split)) for each in found] == [
        (stage, split) for stage in EXTRACTED for split in ("tiny/train", "tiny/val")
    ]
    assert {place.split("/")[0] for place in tiny.commits()} >= {"masks", "mask_embeddings", "match"}
