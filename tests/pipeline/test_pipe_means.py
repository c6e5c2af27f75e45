"""Train means: several next to each other, planned and shown as any other column, and which of them a training takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

from pipeline.config import InputError
from pipeline.executors import LocalExecutor
from pipeline.look import Look
from pipeline.params_file import load_settings
from pipeline.plan import plan_reduction
from pipeline.reduce import compute_part, reduce_stage, votes
from pipeline.runs import resolve
from stages.means import KINDS, whole
from stages.train.run_digest import differences, identity
from store import open_split

BOTH = {"tiny": {"train": ["train"]}, "both": {"train": ["val", "tiny/train"]}}
COLUMN = "means/tiny/sam/demo_sam"


def vectors(project: Any, split: str, encoder: str) -> np.ndarray:
    """Every vector that votes, float64 [n, D]: first of masks, then of instances, image by image."""
    opened = open_split(project.store, "tiny", split)
    return np.concatenate([record[f"{kind}/{encoder}"] for kind in KINDS for record in opened]).astype(np.float64)


def test_means_stand_next_to_each_other(finished: Any) -> None:
    before, bytes_before = finished.times(), finished.content()
    finished.configure(means=BOTH)
    plan = finished.run("normalize", "--dry-run")
    assert plan.code == 0, plan.err
    assert "means: would compute means/both/sam/demo_sam\n" in plan.out
    assert "center tiny/train: would compute 3 of 3 shards of centered/both/mask_embeddings/sam/demo_sam\n" in plan.out
    assert "tiny/sam/demo_sam" not in plan.out
    assert finished.recomputed(before) == set()
    done = finished.run("normalize")
    assert done.code == 0, done.err
    assert "means: 2 of 4 columns computed; " in done.out
    new = finished.recomputed(before)
    assert all("both" in name for name in new)
    assert len(new) == 2 + 2 * 2 * (3 + 2)
    assert {name: sha for name, sha in finished.content().items() if name in bytes_before} == bytes_before

    voted = np.concatenate([vectors(finished, split, "demo_sam") for split in ("val", "train")])
    mean = zarr.open_array(finished.store / "means/both/sam/demo_sam", mode="r")[0]
    np.testing.assert_allclose(mean, voted.mean(axis=0), rtol=1e-12, atol=1e-12)
    record = open_split(finished.store, "tiny", "val")["gnu"]
    for kind in KINDS:
        of = f"{kind}/demo_sam" if kind == "instance_embeddings" else f"{kind}/sam/demo_sam"
        expected = (record[of].astype(np.float64) - mean).astype(np.float16)
        np.testing.assert_array_equal(record[f"centered/both/{kind}/sam/demo_sam"], expected)
    figures = json.loads((finished.folder / "report/tiny/normalize.json").read_text())
    assert figures["both"]["sam/demo_sam"]["vectors"] == len(voted)
    assert figures["tiny"]["sam/demo_sam"]["val"]["after"] != figures["both"]["sam/demo_sam"]["val"]["after"]
    assert (finished.folder / "report/tiny/similarity/both/val-sam-demo_sam.png").is_file()
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_a_mean_is_missing_stale_and_damaged_as_any_other_column(finished: Any) -> None:
    def shown() -> tuple[dict[str, int], list[str]]:
        column = finished.info()["means"][COLUMN]
        return {state: count for state, count in column["shards"].items() if count}, column["why"]

    assert shown() == ({"done": 1}, [])
    finished.configure(means={"tiny": {"train": ["train", "val"]}})
    assert shown() == ({"stale": 1}, ["stale: params.train: ['tiny/train'] -> ['tiny/train', 'tiny/val']"])
    assert (
        finished.info()["splits"]["tiny/val"]["columns"]["centered/tiny/mask_embeddings/sam/demo_sam"]["shards"][
            "stale"
        ]
        == 2
    )
    finished.configure()
    shard = finished.store / "tiny/mask_embeddings/sam/demo_sam/train/c/1/0/0"
    kept = shard.read_bytes()
    shard.unlink()
    assert shown() == ({"stale": 1}, ["stale: /tiny/mask_embeddings/sam/demo_sam/train#1 changed"])
    assert f"{COLUMN}: 1 of 1 shards not done (stale: " in finished.run("verify", "--complete").out
    done = finished.run("normalize")
    assert done.code == 2
    assert "split tiny/train: mask_embeddings/sam/demo_sam shard 1 is missing (stage embed)" in done.err
    assert "run: python cli.py extract --split train --stage embed" in done.err
    shard.write_bytes(kept)
    (finished.store / COLUMN / "c/0/0").unlink()
    assert shown() == ({"missing": 1}, [])
    (finished.store / COLUMN / "c/0/0").write_bytes(kept)
    assert shown()[0] == {"damaged": 1}
    assert f"  {COLUMN}" in finished.run("info").out


def test_stages_of_normalize(finished: Any) -> None:
    before, content = finished.times(), finished.content()
    shutil.rmtree(finished.store / COLUMN)
    assert finished.run("normalize", "--stage", "center").err.startswith(
        f"error: {COLUMN} shard 0 is missing (stage means) and 1 more; run: python cli.py normalize"
    )
    done = finished.run("normalize", "--stage", "means")
    assert done.code == 0, done.err
    assert finished.recomputed(before) == {f"{COLUMN}#0"}
    assert finished.content() == content
    done = finished.run("normalize", "--stage", "mean")
    assert (done.code, "expected means or center (did you mean 'means'?)" in done.err) == (2, True)


def test_only_the_images_that_vote_count(finished_once: Any) -> None:
    """Votes name images of shards; a split that names another's images adds their positions there."""
    settings = load_settings(finished_once.params)
    (plan,) = (plan for plan in plan_reduction(settings, "means") if plan.spec.name == COLUMN)
    tasks = votes(Look(settings), plan)
    assert [(task.place.split("/")[1], task.shard) for task in tasks] == [(kind, n) for kind in KINDS for n in range(3)]
    opened = open_split(finished_once.store, "tiny", "train")
    masks = [record["mask_embeddings/sam/demo_sam"].astype(np.float64) for record in opened]
    data = whole(compute_part(replace(task, positions=(1,))).value for task in tasks[:2])
    np.testing.assert_allclose(data.rows[0], np.concatenate([masks[1], masks[3]]).mean(axis=0), rtol=1e-12)
    assert data.extra["count"] == len(masks[1]) + len(masks[3])


def test_a_shard_that_is_replaced_meanwhile_is_no_mean(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from store.errors import ConflictError

    class Slow(LocalExecutor):
        def map(self, function: Any, tasks: Any) -> Any:
            for number, part in super().map(function, tasks):
                yield number, replace(part, content="0" * 64) if number == 1 else part

    shutil.rmtree(finished.store / COLUMN)
    settings = load_settings(finished.params)
    with pytest.raises(ConflictError, match="is not what was reduced"):
        reduce_stage(settings, "means", Slow())
    assert not (finished.store / COLUMN).exists()


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({"tiny": {"train": []}}, "means.tiny.train: found [], expected 1 or more entries"),
        ({"tiny": {"train": ["train", "tiny/train"]}}, "a split appears twice"),
        (
            {"tiny": {"train": ["test"]}},
            "means.tiny.train: found 'tiny/test', expected splits of section data: tiny/train, tiny/val",
        ),
        ({"tiny": {"splits": ["train"]}}, "means.tiny.splits: unknown parameter"),
        ({"a/b": {"train": ["train"]}}, "a/b"),
    ],
)
def test_what_is_wrong_in_a_mean_is_named(empty: Any, means: Any, words: str) -> None:
    empty.configure(means=means)
    with pytest.raises(InputError) as caught:
        load_settings(empty.params)
    assert words in str(caught.value)


def test_which_mean_a_training_takes(empty: Any) -> None:
    def known(*overrides: str, system: str = "elisa") -> dict[str, Any]:
        return identity(resolve(load_settings(empty.params, overrides), system, None).params, system, {})

    only = known()
    assert differences(only, known("train.mean=tiny")) == []
    empty.configure(means=BOTH)
    with pytest.raises(
        InputError, match="train.mean: found null, expected the train mean .* section means has tiny, both"
    ):
        known()
    assert known("train.mean=tiny") == only
    assert [str(one) for one in differences(only, known("train.mean=both"))] == ['train.mean: "tiny" -> "both"']
    assert known(system="lisa") == known("train.mean=both", system="lisa"), "LISA reads no centred embeddings"
    for name in ("train.mean=bot", "runs={mine: {system: elisa, mean: bot}}"):
        with pytest.raises(
            InputError, match=r"mean: found 'bot', expected the name of a mean: tiny, both \(did you mean"
        ):
            load_settings(empty.params, [name])
