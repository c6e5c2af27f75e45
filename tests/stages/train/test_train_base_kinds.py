"""Folders of other models, and of trained systems, are not taken for a LLaVA to start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.train.language.llava import FeatureLlava, load_llava
from tests.stages.train.released import refusal, released_folder, released_state, save_state


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(how(load_file(path)), path, {"format": "pt"})


def test_another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))
    said = refusal(folder)
    assert (
        "15 tensors have another shape than config.json says, the first is model.language_model.layers.0.mlp.down_proj"
        in said
    )
    assert "found [192, 576], expected [192, 96]" in said


def test_tensors_that_nobody_asked_for(folder: Path) -> None:
    change(folder, lambda state: {**state, "image_newline": torch.ones(3), "model.more.weight": torch.ones(2)})
    assert "2 tensors are in the files and not in the model: " in refusal(folder)
    assert "image_newline" in refusal(folder)


def test_a_projector_of_another_kind(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, 2, wraps=False, mm_projector_type="linear")
    assert "2 tensors are in the files and not in the model: model.multi_modal_projector.linear_2.bias" in refusal(
        folder
    )
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"linear"', '"mlp3x_gelu"'))
    assert "mm_projector_type: found 'mlp3x_gelu', expected one of mlp2x_gelu, linear" in refusal(folder)


def test_a_tower_somewhere_else_is_no_tower(folder: Path) -> None:
    change(folder, lambda state: {**state, "model.other.vision_tower.weight": torch.ones(3)})
    assert "1 tensors are in the files and not in the model: model.other.vision_tower.weight" in refusal(folder)


# Trained systems

LISA = (
    "model.text_hidden_fcs.0.0.weight",
    "model.visual_model.mask_decoder.mask_tokens.weight",
    "model.visual_model.x",
)
LLM_SEG = ("model.text_hidden_fcs.0.0.weight", "model.lisa_dino_conv.weight", "model.lisa_iou_head.0.bias")
DEEPSPEED = (
    "base_model.model.model.lisa_attention_layers.0.norm1.weight",
    "base_model.model.model.text_hidden_fcs.0.0.bias",
)
ELISA = ("adapter.mlp.0.weight", "adapter.mean_emb")


@pytest.mark.parametrize(
    ("names", "owner"),
    [
        (LISA, "this is a trained LISA"),
        (LLM_SEG, "this is a trained LISA of LLM-Seg's kind"),
        (DEEPSPEED, "this is a trained LISA of LLM-Seg's kind"),
        (ELISA, "this is a trained ELISA"),
        (("model.layers.0.self_attn.q_proj.lora_A.default.weight",), "this is a model with LoRA that is not merged"),
    ],
)
@pytest.mark.parametrize("files", ["bin", "shards", "safetensors"])
def test_a_trained_system_is_not_taken_for_a_llava(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], owner: str, files: str
) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="bin")
    (folder / "pytorch_model.bin").unlink()
    save_state(folder, released_state(1, 403) | {name: torch.ones(2) for name in names}, files)
    monkeypatch.setattr(FeatureLlava, "from_pretrained", None)  # it is seen before anything is loaded
    said = refusal(folder)
    assert f"{folder}: {owner}" in said
    assert any(name in said for name in names)


def test_many_names_are_counted(folder: Path) -> None:
    more = {f"model.visual_model.{k}.weight": torch.ones(1) for k in range(10)}
    change(folder, lambda state: {**state, **more})
    said = refusal(folder)
    assert "model.visual_model.0.weight, model.visual_model.1.weight, model.visual_model.2.weight and 7 more" in said
    assert "it has 10 tensors that no LLaVA has" in said


def test_folders_of_trained_systems_without_a_configuration(tmp_path: Path) -> None:
    for number, (name, said) in enumerate(
        [
            ("global_step5000", "this is a DeepSpeed checkpoint, as LISA and LLM-Seg write them"),
            ("latest", "this is a DeepSpeed checkpoint"),
            ("trained.safetensors", "this is what `train` wrote"),
            ("llava_gemma.pth", "this may be a trained ELISA"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_text("x")
        assert said in refusal(folder)


def test_lora_beside_a_model(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json: LoRA that is not merged" in refusal(folder)


# Kin


@pytest.mark.parametrize(
    "kind",
    ["llava_next", "llava_next_video", "llava_onevision", "vipllava", "video_llava", "llama", None, "llava_mistral"],
)
def test_kin_of_llava(folder: Path, kind: str | None) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    assert f"model_type: found {kind!r}, expected 'llava': " in refusal(folder)


@pytest.mark.parametrize("kind", ["llava_mistral", "llava_mpt", "llava_qwen"])
def test_kin_in_the_released_form(tmp_path: Path, kind: str) -> None:
    said = refusal(released_folder(tmp_path, 2, wraps=False, model_type=kind))
    assert f"model_type: found {kind!r}, expected 'llava' or 'llava_llama'" in said


def test_tiles(tmp_path: Path) -> None:
    said = refusal(released_folder(tmp_path / "a", 2, wraps=False, image_aspect_ratio="anyres"))
    assert "image_aspect_ratio: found 'anyres', expected pad or square" in said
    said = refusal(released_folder(tmp_path / "b", 2, wraps=False, mm_patch_merge_type="spatial_unpad"))
    assert "mm_patch_merge_type: found 'spatial_unpad'" in said
    load_llava(str(released_folder(tmp_path / "c", 2, wraps=False, model_type="llava_llama")), "float32")


def test_values_that_cannot_be(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for changes in (
        {"vision_feature_select_strategy": "x"},
        {"vision_config": 3},
        {"text_config": {"model_type": "nope"}},
    ):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        assert f"{folder}: config.json: " in refusal(folder)
