"""``only: run NAME``: the pictures that a training draws are listed and extracted, and no others; and it draws the very same."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.data.mixture import MixtureSizes, make_mixture
from pipeline import draws
from pipeline.leaks import left_out
from pipeline.params_file import load_settings
from pipeline.runs import resolve
from stages.base import Collector
from stages.proposers.sam import proposals
from stages.train.draw import epoch_length, groups_of, samples_of
from stages.train.run import batches, system_class
from store import open_split
from store.errors import FailedImageError
from store.stream.mixture import mixture

ROOT = Path(__file__).resolve().parents[2]
SIZES = MixtureSizes(mixed=14, reasoned=3, asked=3)
REASONSEG = 6
EVERY = 17
"""Pictures that coco has: 14 that the sets train on, and 3 that they are evaluated on."""
TWICE = "000000000003"
"""One of the 14 that reasonseg/val shows, too, so that leaks leaves it out."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture") / "data/mixture"
    make_mixture(folder, SIZES)
    mine = next((folder / "coco").rglob(f"*{TWICE}.jpg"))
    shutil.copy(mine, min((folder / "reason_seg/ReasonSeg/val").glob("*.jpg")))
    return folder


@pytest.fixture(scope="module")
def made(pictures: Path, project_at: Any) -> Any:
    """A function that gives a project below a folder, with its own store, whose ``coco`` lists ``only`` this."""

    def make(folder: Path, only: Any, **train: Any) -> Any:
        text = (ROOT / "params/mixture_demo.yaml").read_text().replace("data/mixture/", f"{pictures}/")
        values = yaml.safe_load(text.replace("data/train", f"{folder}/train"))
        values["store"] = str(folder / "store")
        values["proposers"]["demo_sam"] |= {"points_per_side": 2, "pred_iou_thresh": 0.0}
        values["shard_images"] = 4
        values["train"] |= {"max_steps": 3, "batch_size": 2, **train}
        values["run"] |= {"cache_dir": str(folder / "cache"), "report_dir": str(folder / "report"), "threads": 1}
        values["run"] |= {"executor": "local", "device": "cpu"}
        values["runs"]["plain"] = {"system": "llmseg", "train": ["refcoco/val"]}
        if only is not None:
            values["data"]["coco"]["only"] = only
        folder.mkdir()
        project = project_at(folder)
        project.values = values
        save(project)
        return project

    return make


def save(project: Any) -> None:
    project.params.write_text(yaml.safe_dump(project.values, sort_keys=False))


@pytest.fixture(scope="module")
def whole(made: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store whose ``coco`` lists every picture, indexed."""
    project = made(tmp_path_factory.mktemp("whole") / "project", None)
    project.build("index")
    return project


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures SAM got, call by call."""
    found: list[int] = []
    real = proposals.MaskGenerator.propose

    def counted(self: Any, images: Any, memo: Any) -> Any:
        found.append(len(images))
        return real(self, images, memo)

    monkeypatch.setattr(proposals.MaskGenerator, "propose", counted)
    return found


def listed(project: Any) -> list[str]:
    return list(open_split(project.values["store"], "coco", "all", columns="images").image_ids)


Sample = list[tuple[str, str, int, float]]
"""Split, image_id, target and text of each question."""


def samples(project: Any, name: str = "mixture", change: Sequence[str] = (), trained: bool = False) -> list[Sample]:
    """Every sample that a training takes, in its order.

    Args:
        project: its ``column``, if it has one, is read, too. change: values that are set.
        trained: by the training's own loader, for which all that it reads has to be there.
    """
    settings = load_settings(project.params, change)
    run = resolve(settings, None, name)
    refs = settings.refs("train", run.params.splits)
    without = left_out(settings, refs, run.params.leaks).images
    if trained:
        splits = {str(ref): open_split(settings.store_path, ref.dataset, ref.split) for ref in refs}
        schedule = batches(run.params, system_class(run.system), splits, without=without).stream.schedule
    else:
        own = ["images", "targets", *([project.column] if hasattr(project, "column") else [])]
        splits = {str(ref): open_split(settings.store_path, ref.dataset, ref.split, columns=own) for ref in refs}
        how: dict[str, Any] = {"questions": run.params.questions, "draw": run.params.draw, "seed": run.params.seed}
        length, size = epoch_length(run.params), run.params.batch_size
        groups = groups_of(run.params)
        read = ["targets.texts", *own[2:]]
        schedule = mixture(splits, groups, read, size, length, **how, without=without).schedule  # type: ignore[assignment]
    names = list(splits)
    return [
        [(names[at], splits[names[at]].image_ids[image], target, text) for at, image, target, text in rows]
        for rows in (schedule.sample(*one) for one in samples_of(schedule, run.params, run.system))  # type: ignore[attr-defined, arg-type]
    ]


def drawn(found: Sequence[Sample]) -> set[str]:
    """The pictures of coco in samples."""
    return {row[1] for sample in found for row in sample if not row[0].startswith("reasonseg")}


def test_a_run_draws_what_is_listed_and_what_it_would_draw_of_everything(
    whole: Any, made: Any, tmp_path: Path, seen: list[int]
) -> None:
    part = made(tmp_path / "part", "run mixture")
    done = part.run("index")
    assert done.code == 0
    found = listed(part)
    assert (
        f"not listed: {14 - len(found)} of 14 images, which the option `only` of the data set that holds the"
        in done.err
    )
    part.build("extract")
    assert sum(seen) == len(found) + REASONSEG
    wanted = samples(whole)
    assert samples(part, trained=True) == wanted
    assert set(found) == drawn(wanted)
    assert len(found) < len(listed(whole)) == EVERY
    assert part.run("verify", "--complete").code == 0
    status = part.info()["splits"]["stuff/train"]["columns"]
    assert status["images"]["status"] == {"ok": len(found), "absent": 14 - len(found)}
    assert status["targets"]["status"] == {"ok": 14}
    assert status["match/demo_sam/targets"]["status"] == status["images"]["status"]

    assert f"stuff/train: 14 images of coco, {14 - len(found)} not listed by coco" in part.run("info").out

    asked = part.run("boxes", "--data", "stuff", "--model", "demo_sam", "--out", str(tmp_path / "masks.json"))
    assert asked.code == 2
    assert f"stuff/train: {14 - len(found)} of 14 pictures are not listed by coco" in asked.err

    evaluated = part.run("train", "--name", "plain")
    assert evaluated.code == 2
    assert "refcoco/val: 3 of 3 pictures are not listed by coco, such as" in evaluated.err
    assert "add refcoco/val to data.coco.only" in evaluated.err

    longer = ("--set", "runs.mixture.max_steps=9")
    lacking = drawn(samples(whole, change=longer[1:])) - set(found)
    assert lacking
    refused = part.run(*longer, "train", "--name", "mixture")
    assert refused.code == 2
    assert "train mixture: it draws pictures that are not listed: " in refused.err
    assert any(image_id in refused.err for image_id in lacking)
    assert "--set runs.mixture.max_steps=9 index, then python cli.py" in " ".join(refused.err.split())
    other = part.run("train", "--name", "lisa_mixture")
    assert "add 'run lisa_mixture' to data.coco.only, then run: " in other.err
    with pytest.MonkeyPatch.context() as patch:  # two processes take twice as many samples
        patch.setenv("WORLD_SIZE", "2")
        assert "--set runs.mixture.batch_size=4 index" in part.run("train", "--name", "mixture").err
    unread = open_split(part.values["store"], "stuff", "train")
    with pytest.raises(FailedImageError, match=r"coco does not list it \(only\)"):
        unread[next(iter(lacking))].masks  # noqa: B018

    seen.clear()
    before = part.times()
    part.values["runs"]["mixture"]["max_steps"] = 9
    save(part)
    alone = part.run("index", "--data", "stuff")
    assert alone.code == 2
    assert f"{len(lacking)} images that it asks about are in the folders of coco and not in its index yet" in alone.err
    part.build("index", "extract")
    assert listed(part)[: len(found)] == found
    assert set(listed(part)[len(found) :]) == lacking
    again = {name for name in part.recomputed(before) if name.startswith("coco/masks/")}
    assert again == {f"coco/masks/demo_sam/all#{n}" for n in range(len(found) // 4, -(-len(listed(part)) // 4))}
    assert sum(seen) == len(lacking) + len(found) % 4
    assert samples(part, trained=True) == samples(whole, change=longer[1:])
    trained = part.run("--set", "runs.mixture.max_steps=1", "train", "--name", "mixture")
    assert trained.code == 0, trained.err
    asked = part.run(
        "--set", "runs.mixture.max_steps=1", "evaluate", "--name", "mixture", "--data", "refcoco", "--split", "val"
    )
    assert asked.code == 2
    assert "refcoco/val: 3 of 3 pictures are not listed by coco" in asked.err


CHANGES = {
    "laps": ["train.draw=laps"],
    "redrawn": ["runs.mixture.mixture.refer_seg.absent=redrawn"],
    "share": ["runs.mixture.mixture.refer_seg.absent=0.5", "train.seed=3"],
    "epochs": ["train.epoch_samples=5", "train.max_steps=0", "train.epochs=2", "train.accumulation=2"],
    "no leaks": ["train.leaks=none", "train.max_steps=20"],
    "leaks": ["train.max_steps=20"],
    "one question": ["train.questions=1", "runs.mixture.seed=5"],
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_decides_a_draw_decides_what_is_listed(whole: Any, made: Any, tmp_path: Path, name: str) -> None:
    part = made(tmp_path / "part", "run mixture")
    settings = load_settings(part.params, CHANGES[name])
    part.params.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    part.build("index")
    wanted = samples(whole, change=CHANGES[name])
    assert samples(part) == wanted
    never = {*resolve(settings, None, "mixture").params.splits} - {row[0] for rows in wanted for row in rows}
    assert drawn(wanted) <= set(listed(part))
    assert len(set(listed(part)) - drawn(wanted)) <= len(never)  # of a split that is not drawn, one
    if name in ("leaks", "no leaks"):
        assert (TWICE in listed(part)) == (name == "no leaks")


@pytest.mark.slow
def test_a_split_that_is_hardly_ever_drawn_need_not_be_listed(made: Any, tmp_path: Path) -> None:
    part = made(tmp_path / "part", "run thin", leaks="none", max_steps=1)
    groups = {"a": {"weight": 9, "of": ["stuff/train"]}, "b": {"weight": 1e-9, "of": ["refcoco/val"]}}
    part.values["runs"] = {"thin": {"system": "llmseg", "mixture": groups}}
    save(part)
    part.build("index", "extract")
    done = part.run("train", "--name", "thin")
    assert done.code == 0, done.err
    assert "of refcoco/val 0 samples" in done.err


def test_what_elisa_aligns_with_is_listed(made: Any, tmp_path: Path) -> None:
    part = made(
        tmp_path / "part",
        "run el",
        max_steps=1,
        elisa={"align": {"epochs": 2, "learning_rate": 1e-3, "temperature": 0.1}},
    )
    part.values["runs"] = {"el": {"system": "elisa", "mixture": part.values["runs"]["mixture"]["mixture"]}}
    part.values["train"] |= {"epoch_samples": 6, "max_steps": 1}
    part.values["means"] = {"own": {"train": ["paco/train"]}}
    save(part)
    part.build("index")
    read = samples(part, "el")
    assert len(read) == 2 * 6 + 2
    assert read[6:12] != read[:6] == [*read[12:], *read[2:6]]
    assert set(listed(part)) == drawn(read) > drawn(read[:6])


def test_a_data_set_that_is_gone_is_named_with_the_run_that_needs_it(made: Any, pictures: Path, tmp_path: Path) -> None:
    part = made(tmp_path / "part", "run mixture")
    part.values["data"]["paco"]["root"] = str(tmp_path / "gone")
    save(part)
    done = part.run("index", "--data", "coco")
    assert done.code == 2
    assert "run mixture, whose pictures the option `only` asks for, cannot be drawn" in " ".join(done.err.split())
    assert part.run("info").code == 0


def test_conversations_and_several_entries(whole: Any, made: Any, tmp_path: Path, monkeypatch: Any) -> None:
    part = made(tmp_path / "part", ["run lisa_mixture", "refcoco/val"])
    part.values["runs"]["lisa_mixture"]["max_steps"] = 2
    save(part)
    draws._known.clear()
    part.build("index")
    wanted = samples(whole, "lisa_mixture", ["runs.lisa_mixture.max_steps=2"])
    assert samples(part, "lisa_mixture") == wanted
    asked = set(open_split(part.values["store"], "refcoco", "val", columns="images").image_ids)
    assert set(listed(part)) == drawn(wanted) | asked

    def never(*arguments: Any) -> Any:
        raise AssertionError("what is asked was read again")

    monkeypatch.setattr(draws, "annotation_of", never)
    draws._known.clear()
    assert part.run("index").code == 0
    assert part.info()["splits"]["coco/all"]["images"] == len(listed(part))
    monkeypatch.undo()
    for path in (tmp_path / "part/cache").glob("*.facts"):
        path.write_bytes(path.read_bytes()[:-9])
    draws._known.clear()
    assert part.run("index").code == 0
    assert samples(part, "lisa_mixture") == wanted


@pytest.mark.slow
def test_a_picture_that_failed_is_drawn_again_and_what_is_drawn_instead_is_listed(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a store that holds everything, in which the same picture failed."""
    whole, part = made(tmp_path / "whole", None), made(tmp_path / "part", "run mixture")
    real, failing = Collector.array, set[int]()

    def array(self: Collector, image_index: int, vectors: Any, omitted: int = 0) -> None:
        real(self, image_index, vectors * np.inf if image_index in failing else vectors, omitted)

    monkeypatch.setattr(Collector, "array", array)
    part.build("index")
    whole.build("index")
    before = listed(part)
    broken = set(before[:2])
    for project in (part, whole):
        failing.clear()
        project.build("extract --stage embed --encoder demo_clip --data reasonseg")
        failing.update(number for number, name in enumerate(listed(project)) if name in broken)
        assert project.run("extract", "--stage", "embed", "--encoder", "demo_clip", "--data", "coco").code == 1
        monkeypatch.setattr(project, "column", "image_features/demo_clip", raising=False)
    wanted = samples(whole)
    assert not drawn(wanted) & broken
    assert samples(part) == wanted
    assert drawn(wanted) - set(before)
    part.build("index")
    assert listed(part)[: len(before)] == before
    assert set(listed(part)) == drawn(wanted) | broken
    failing.clear()
    part.build("--set run.max_failures=2 extract --stage embed --encoder demo_clip --data coco")
    assert samples(part) == wanted


def test_a_run_without_a_mixture_asks_about_all_of_its_splits(made: Any, tmp_path: Path) -> None:
    part = made(tmp_path / "part", "run plain")
    part.build("index")
    assert listed(part) == list(open_split(part.values["store"], "refcoco", "val", columns="images").image_ids)
    assert len(listed(part)) == 3


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("run mixtur", "data.coco.only: found 'run mixtur', expected 'run ' and the name of a run: mixture, alone, "),
        ("run mixtur", "(did you mean 'mixture'?)"),
        ("run alone", "data.coco.only: found 'run alone', expected a run that trains on pictures of coco"),
        ("refcoco/vall", "data.coco.only: found 'refcoco/vall', expected data sets whose images are coco: "),
        ("refcoco/vall", "(did you mean 'refcoco/val'?)"),
        ("reasonseg", "data.coco.only: found 'reasonseg', expected data sets whose images are coco"),
        ("run  mixture", "data.coco.only"),
    ],
)  # fmt: skip
def test_what_only_cannot_name_is_refused(made: Any, tmp_path: Path, only: str, said: str) -> None:
    done = made(tmp_path / "part", only).run("info")
    assert done.code == 2
    assert said in " ".join(done.err.split())
