"""Training from base models that are not what the features are of, or not whole."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from pipeline.runs import resolve

QUICK = ("--set", "train.epochs=1", "--set", "train.batch_size=2", "--set", "train.elisa.max_new_tokens=8")


def other_llava(project: Any, **changes: Any) -> Path:
    """A copy of the demo's LLaVA with another config.json."""
    folder = Path(copytree(ROOT / "demo/models/demo_llava", project.folder / "llava"))
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("system", "changes", "said"),
    [
        ("elisa", {"model_type": "llava_next"}, "model_type: found 'llava_next', expected 'llava'"),
        ("llmseg", {"vision_feature_layer": -1}, "vision_feature_layer: the model expects -1, the column has -2"),
        (
            "elisa",
            {"vision_feature_layer": [-2, -5]},
            "vision_feature_layer: the model expects [-2, -5], the column has -2",
        ),
        ("lisa", {"vision_feature_select_strategy": "full"}, "'full', the column has 'default'"),
        ("elisa", {"vision_config": {"image_size": 336}}, "patches: the model expects 441, the column has 64"),
        ("elisa", {"vision_config": {"hidden_size": 1024}}, "width: the model expects 1024, the column has 128"),
        ("elisa", {"text_config": {"hidden_size": 96}}, "tensors have another shape than config.json says"),
    ],
)
def test_a_llava_that_expects_other_features_is_an_input_error(
    finished: Any, system: str, changes: dict[str, Any], said: str
) -> None:
    done = finished.run(
        "train", "--system", system, before=("--set", f"train.llava={other_llava(finished, **changes)}")
    )
    assert done.code == 2, done.err
    assert said in done.err
    assert not (resolve(load_settings(finished.params), system, None).folder / "run.json").exists()


@pytest.mark.parametrize("spoil", ["pointer", "no config", "empty", "cut", "lisa", "missing"])
def test_a_llava_that_is_not_whole_is_an_input_error(finished: Any, spoil: str) -> None:
    folder = other_llava(finished)
    weights = folder / "model.safetensors"
    if spoil == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif spoil == "no config":
        (folder / "config.json").unlink()
    elif spoil == "empty":
        weights.unlink()
    elif spoil == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        state = load_file(weights)
        more = {"model.visual_model.mask_decoder.x": torch.ones(2)} if spoil == "lisa" else {}
        kept = {name: value for name, value in state.items() if spoil == "lisa" or "layers.2" not in name}
        save_file({**kept, **more}, weights, {"format": "pt"})
    done = finished.run("train", "--system", "elisa", before=("--set", f"train.llava={folder}"))
    assert done.code == 2, done.err
    words = {
        "pointer": "found a Git-LFS pointer", "no config": "config.json: found no such file",
        "empty": "found none of model.safetensors",
        "cut": "it was cut or changed", "lisa": "this is a trained LISA", "missing": "tensors are missing",
    }  # fmt: skip
    assert f"train elisa: {folder}" in done.err
    assert words[spoil] in done.err


def test_paths_begin_at_the_repository_wherever_the_command_is_typed(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings(finished.params).train.llava == "demo/models/demo_llava"
    done = finished.run("train", "--system", "elisa", before=QUICK)
    assert done.code == 0, done.err
    monkeypatch.chdir(ROOT)
    assert "already" in finished.run("train", "--system", "elisa", before=QUICK).out
    monkeypatch.chdir(tmp_path)
    done = finished.run("train", "--system", "elisa", before=("--set", "train.llava=./models/none"))
    assert done.code == 2, done.err
