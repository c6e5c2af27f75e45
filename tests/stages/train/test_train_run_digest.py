"""A run is known again by parameters, language model and data: what was trained on others is never taken for it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.train.folder import PLACE, RUN, claim, held, last_checkpoint, move_aside, was_moved
from stages.train.params import TrainParams, overridden
from stages.train.run import system_class
from stages.train.run_digest import answering, differences, identity, run_digest
from stages.train.systems import SYSTEMS
from store.split import Split


@pytest.fixture
def params(seg_params: Callable[..., TrainParams], tmp_path: Path) -> TrainParams:
    """With a language model of its own, which a test may change."""
    made = seg_params("lisa")
    shutil.copytree(made.llava, tmp_path / "llava")
    return made.model_copy(update={"llava": str(tmp_path / "llava")})


@pytest.fixture
def about(params: TrainParams, seg_split: Split) -> dict[str, Any]:
    return identity(params, "lisa", {"val": seg_split})


def told(old: dict[str, Any], new: dict[str, Any], **how: bool) -> list[str]:
    differ = [str(one) for one in differences(old, new, **how)]
    if not how:
        assert bool(differ) == (run_digest(old) != run_digest(new))
    return differ


def test_it_is_known_again(params: TrainParams, seg_split: Split, about: dict[str, Any]) -> None:
    assert told(about, identity(params, "lisa", {"val": seg_split})) == []
    assert told(json.loads(json.dumps(about)), about) == []
    others = overridden(params, {"elisa": {"top_k": 3}})
    assert told(about, identity(others, "lisa", {"val": seg_split})) == [], "another system's parameters"
    assert told(about, identity(params, "lisa", {}), data=False) == []


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_line_of_a_system_leads_to_its_class_and_its_section(name: str) -> None:
    assert TrainParams.model_fields[name].annotation is SYSTEMS[name].params
    assert set(SYSTEMS[name].answering) <= SYSTEMS[name].params.model_fields.keys()
    assert callable(system_class(name).build)


def test_other_parameters_are_named(params: TrainParams, about: dict[str, Any], seg_split: Split) -> None:
    def against(changes: dict[str, Any]) -> list[str]:
        return told(about, identity(overridden(params, changes), "lisa", {"val": seg_split}))

    assert against({"epochs": 7}) == ["train.epochs: 1 -> 7"]
    assert against({"lora": {"r": 3}, "lisa": {"ignore": "background"}}) == [
        "train.lora.r: 16 -> 3",
        'train.lisa.ignore: "excluded" -> "background"',
    ]
    assert against({"adam_betas": [0.9, 0.95], "schedule_options": {"min_lr": 0.1}}) == [
        'train.schedule_options: {} -> {"min_lr": 0.1}',
        "train.adam_betas: [0.9, 0.999] -> [0.9, 0.95]",
    ]
    assert told(about, identity(params, "llmseg", {})) == ["system: lisa -> llmseg"]


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_what_only_decides_how_it_answers_or_is_reported_is_no_part_of_it(params: TrainParams, system: str) -> None:
    others = {"max_new_tokens": 99, "beams": 9, "repeats": True, "strategy": "iop", "threshold": 0.25}
    own = {name: others[name] for name in SYSTEMS[system].answering}
    changed = overridden(params, {system: own, "report_to": ["wandb"], "save_steps": 7})
    assert told(identity(params, system, {}), identity(changed, system, {})) == []
    assert answering(changed, system) == {f"{system}.{name}": value for name, value in own.items()}


def test_a_new_parameter_that_means_what_there_was_before_changes_nothing(about: dict[str, Any]) -> None:
    old = json.loads(json.dumps(about))
    for name in ("adam_betas", "weight_decay", "warmup_steps", "schedule_options", "max_steps", "save_steps"):
        del old["params"][name]
    del old["system"]  # earlier records named it by its section alone
    assert told(old, about) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_language_model_that_was_changed_where_it_lies(params: TrainParams, name: str) -> None:
    path = Path(params.llava) / name
    before = identity(params, "lisa", {})
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (line,) = told(before, identity(params, "lisa", {}))
    assert line.startswith("files of the language model: ")
    path.write_bytes(data)
    assert told(before, identity(params, "lisa", {})) == []


@pytest.mark.parametrize("change", ["a shard", "the parameters of a column", "no longer a column", "another split"])
def test_other_data(params: TrainParams, seg_split: Split, about: dict[str, Any], change: str) -> None:
    columns, name = dict(seg_split.columns), "sam_features/demo_sam"
    column = columns[name] = copy.copy(columns[name])
    if change == "a shard":
        column.commits = [replace(commit, content="0" * 64) for commit in column.commits if commit]
    elif change == "the parameters of a column":
        column.meta = replace(column.meta, fingerprint="0" * 64)
    elif change == "no longer a column":
        del columns[name]
    elif change == "another split":
        columns = {name: copy.copy(found) for name, found in columns.items()}
        for found in columns.values():
            found.place = f"another/{found.place}"
    split = Split(seg_split.dataset, seg_split.split, columns, None, seg_split.tables)
    other = identity(params, "lisa", {"val": split})
    lines = told(about, other)
    assert all(line.startswith("data in ") for line in lines)
    assert f"data in {column.place}: " in "".join(lines)
    assert told(about, other, data=False) == []


def test_a_run_of_earlier_code_is_another(params: TrainParams, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(params, "lisa", {})
    monkeypatch.setitem(SYSTEMS, "elisa", replace(SYSTEMS["elisa"], version=99))
    assert told(before, identity(params, "lisa", {})) == [], "another system's version"
    monkeypatch.setitem(SYSTEMS, "lisa", replace(SYSTEMS["lisa"], version=99))
    assert told(before, identity(params, "lisa", {})) == [f"version of lisa's training code: {before['version']} -> 99"]


def test_the_folder_of_a_run(about: dict[str, Any], params: TrainParams, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    assert held(folder) is None
    assert claim(folder, about, aside=False) is None
    found = held(folder)
    assert found is not None
    assert (found.finished, found.step, found.digest) == (False, None, run_digest(about))
    checkpoints = [folder / f"checkpoints/checkpoint-{step}" for step in (3, 20, 100)]
    for checkpoint in checkpoints:
        checkpoint.mkdir()
    for checkpoint in checkpoints[:2]:
        (checkpoint / PLACE).write_text("{}")
    assert last_checkpoint(folder) == checkpoints[1], "the last one is not whole"
    other = identity(params.model_copy(update={"seed": 9}), "lisa", {})
    with pytest.raises(ValueError, match=r"mine holds an unfinished run \(kept: step 20\)"):
        claim(folder, other, aside=False)
    assert all(checkpoint.exists() for checkpoint in checkpoints)
    assert claim(folder, about, aside=False) == checkpoints[1]
    assert [checkpoint.exists() for checkpoint in checkpoints] == [False, True, False]
    assert claim(folder, other, aside=True) is None
    moved = folder.with_name(f"mine-{run_digest(about)[:12]}")
    assert was_moved(moved)
    assert not was_moved(folder)
    assert last_checkpoint(moved) == moved / "checkpoints/checkpoint-20"
    (folder / RUN).write_text(json.dumps(about))
    found = held(folder)
    assert found is not None
    assert found.finished
    assert move_aside(folder, found).name == f"{moved.name}-2"
