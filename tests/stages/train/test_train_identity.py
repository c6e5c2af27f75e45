"""A run is known again by parameters, language model and data: what was trained on others is never taken for it."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stages.train.identity import RUN, VERSIONS, finished, identity, last_checkpoint
from stages.train.params import TrainParams
from stages.train.run import SYSTEMS
from store.reader import Split


@pytest.fixture
def params(seg_params: Callable[..., TrainParams], tmp_path: Path) -> TrainParams:
    """With a language model of its own, which a test may change."""
    made = seg_params("lisa")
    shutil.copytree(made.llava, tmp_path / "llava")
    return made.model_copy(update={"llava": str(tmp_path / "llava")})


@pytest.fixture
def ended(params: TrainParams, seg_split: Split, tmp_path: Path) -> Path:
    """The folder of a run that came to its end."""
    (tmp_path / RUN).write_text(json.dumps({"system": "lisa", **identity(params, "lisa", {"val": seg_split})}))
    return tmp_path


def test_it_is_known_again(params: TrainParams, seg_split: Split, ended: Path) -> None:
    assert finished(params, "lisa", ended)
    assert finished(params, "lisa", ended, {"val": seg_split})
    others = params.elisa.model_copy(update={"top_k": 3})
    assert finished(params.model_copy(update={"elisa": others}), "lisa", ended), "another system's parameters"


def test_all_systems_have_a_version_and_a_section() -> None:
    assert SYSTEMS.keys() == VERSIONS.keys()
    assert SYSTEMS.keys() <= TrainParams.model_fields.keys()


def test_other_parameters(params: TrainParams, ended: Path) -> None:
    assert not finished(params.model_copy(update={"epochs": 7}), "lisa", ended)
    assert not finished(params, "llmseg", ended)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_language_model_that_was_changed_where_it_lies(params: TrainParams, ended: Path, name: str) -> None:
    path = Path(params.llava) / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not finished(params, "lisa", ended)
    path.write_bytes(data)
    assert finished(params, "lisa", ended)


@pytest.mark.parametrize("change", ["a shard", "the parameters of a column", "no longer a column", "another split"])
def test_other_data(params: TrainParams, seg_split: Split, ended: Path, change: str) -> None:
    columns, name = dict(seg_split.columns), "sam_features/demo_sam"
    column = columns[name] = copy.copy(columns[name])
    if change == "a shard":
        column.commits = [replace(commit, sha256="0" * 64) for commit in column.commits if commit]
    elif change == "the parameters of a column":
        column.meta = replace(column.meta, fingerprint="0" * 64)
    elif change == "no longer a column":
        del columns[name]
    split = Split(seg_split.base, columns, None, seg_split.tables)
    splits = {"test" if change == "another split" else "val": split}
    assert not finished(params, "lisa", ended, splits)
    assert last_checkpoint(ended, identity(params, "lisa", {"val": seg_split}), restart=False) is None
    (ended / "checkpoints/checkpoint-3").mkdir()
    assert last_checkpoint(ended, identity(params, "lisa", {"val": seg_split}), restart=False) is not None
    assert last_checkpoint(ended, identity(params, "lisa", splits), restart=False) is None, (
        "it goes on with others' data"
    )


def test_a_run_of_earlier_code_is_trained_again(
    params: TrainParams, seg_split: Split, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ended / "checkpoints/checkpoint-3").mkdir(parents=True)
    (ended / "checkpoints" / RUN).write_text(json.dumps(identity(params, "lisa", {"val": seg_split})))
    monkeypatch.setitem(VERSIONS, "elisa", 99)
    assert finished(params, "lisa", ended), "another system's version"
    monkeypatch.setitem(VERSIONS, "lisa", 99)
    assert not finished(params, "lisa", ended)
    assert last_checkpoint(ended, identity(params, "lisa", {"val": seg_split}), restart=False) is None


def test_a_run_that_has_no_digests_is_trained_again(params: TrainParams, ended: Path) -> None:
    about = json.loads((ended / RUN).read_text())
    (ended / RUN).write_text(json.dumps({name: about[name] for name in ("system", "params")}))
    assert not finished(params, "lisa", ended)
