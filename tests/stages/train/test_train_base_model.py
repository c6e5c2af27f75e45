"""Which folders are loaded as the LLaVA to start from, and what is said of those that are not."""

from __future__ import annotations

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.train import base_model
from stages.train.base_model import ROOT, locate_llava
from stages.train.identity import llava_digest
from stages.train.llava import load_llava
from stages.train.text import IMAGE, encode_prompt
from tests.stages.train.released import VISION, WIDTH, make_sentencepiece, released_folder, released_state, save_state

DEMO = "stages/demo/models/demo_llava"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13476839424\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's LLaVA, as transformers wrote it. Read only."""
    return Path(shutil.copytree(ROOT / DEMO, tmp_path_factory.mktemp("saved") / "llava"))


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "llava"))


def refusal(folder: Path | str) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are the tests' own
        load_llava(str(folder), "float32")
    return str(caught.value)


# What loads


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("files", ["bin", "shards", "safetensors"])
def test_folders_as_haotian_liu_published_them(tmp_path: Path, layers: int, files: str) -> None:
    """LLaVA v1 has one layer and its words for an image, LLaVA-1.5 two and none; both have tokenizer.model alone."""
    folder = released_folder(tmp_path, layers, wraps=layers == 1, files=files)
    assert not (folder / "tokenizer.json").exists()
    model, tokenizer = load_llava(str(folder), "float32")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    state = released_state(layers, rows)
    ours = model.model.multi_modal_projector
    names = {1: {"": ours.linear_1}, 2: {"0.": ours.linear_1, "2.": getattr(ours, "linear_2", None)}}[layers]
    for prefix, layer in names.items():
        assert torch.equal(layer.weight, state[f"model.mm_projector.{prefix}weight"])
        assert torch.equal(layer.bias, state[f"model.mm_projector.{prefix}bias"])
    features = torch.randn(1, 3, VISION)
    want = torch.nn.functional.linear(features, state[f"model.mm_projector.{'0.' if layers == 2 else ''}weight"])
    want += state[f"model.mm_projector.{'0.' if layers == 2 else ''}bias"]
    if layers == 2:
        want = (
            torch.nn.functional.gelu(want) @ state["model.mm_projector.2.weight"].T + state["model.mm_projector.2.bias"]
        )
    torch.testing.assert_close(model.model.get_image_features(features).pooler_output[0], want[0])
    for name, value in model.state_dict().items():
        original = name.replace("model.language_model.", "model.")
        if original in state:
            assert torch.equal(value[: len(state[original])], state[original]), name
    assert (
        sum(name.replace("model.language_model.", "model.") in state for name in model.state_dict())
        == len(state) - 2 - 2 * layers
    )
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    assert model.config.image_token_id == image < model.get_input_embeddings().num_embeddings
    ids = torch.tensor([encode_prompt(tokenizer, f"{IMAGE}\nWhich thing opens a lock?", 3)])
    assert torch.isfinite(model(input_ids=ids, pixel_values=features).logits).all()


@pytest.mark.parametrize("form", ["shards of safetensors", "bin", "sharded bin"])
def test_folders_as_transformers_writes_them(folder: Path, form: str) -> None:
    want, _ = load_llava(str(folder), "float32")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if form == "shards of safetensors":
        names = sorted(state)
        for k in range(2):
            save_file({name: state[name] for name in names[k::2]}, folder / f"model-{k}.safetensors", {"format": "pt"})
        places = {name: f"model-{k}.safetensors" for k in range(2) for name in names[k::2]}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    else:
        save_state(folder, state, "bin" if form == "bin" else "shards")
    found, _ = load_llava(str(folder), "float32")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in want.state_dict().items())


def test_a_tokenizer_without_a_word_for_padding_pads_as_lisa_s(tmp_path: Path) -> None:
    _, tokenizer = load_llava(str(released_folder(tmp_path, 1, wraps=True)), "float32")
    assert tokenizer.pad_token_id == tokenizer.unk_token_id == 0


def test_words_of_the_image_that_the_folder_left_out_get_the_ids_they_were_trained_with(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / "added_tokens.json").unlink()
    _, tokenizer = load_llava(str(folder), "float32")
    assert tokenizer.convert_tokens_to_ids(["<im_patch>", "<im_start>", "<im_end>"]) == [400, 401, 402]
    without = released_folder(tmp_path / "without", 2, wraps=False, mm_use_im_start_end=True)
    assert "mm_use_im_start_end is true, but <im_end> is 402 and the model has 400 embeddings" in refusal(without)


# Where it is


def test_a_path_begins_at_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = llava_digest(DEMO)
    monkeypatch.chdir(tmp_path)
    assert locate_llava(DEMO) == str(ROOT / DEMO)
    assert llava_digest(DEMO) == llava_digest(str(ROOT / DEMO)) == before != DEMO
    load_llava(DEMO, "float32")
    assert locate_llava("Intel/llava-gemma-2b") == "Intel/llava-gemma-2b"
    assert llava_digest("Intel/llava-gemma-2b") == "Intel/llava-gemma-2b"
    assert llava_digest("../nowhere") == "../nowhere"


def test_a_folder_of_the_working_directory_is_not_taken_by_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Intel/llava-gemma-2b").mkdir(parents=True)
    with pytest.raises(ValueError, match=f"found in the working directory, but paths begin at {ROOT}; type {tmp_path}"):
        locate_llava("Intel/llava-gemma-2b")


def test_home_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "llava").mkdir()
    assert locate_llava("~/llava") == str(tmp_path / "llava")


@pytest.mark.parametrize("name", ["/nope", "nope/a/b", "./nope", "../nope", "a b", ""])
def test_what_is_neither_a_folder_nor_an_id(name: str) -> None:
    if name:
        assert "found no such folder" in refusal(name)
    else:  # the repository itself
        assert f"{ROOT}/config.json: found none" in refusal(name)


def test_a_file(folder: Path) -> None:
    assert "found a file, expected a folder" in refusal(folder / "model.safetensors")


# Folders that are not whole


def test_an_empty_folder(tmp_path: Path) -> None:
    assert f"{tmp_path}/config.json: found none, expected that of a LLaVA; the folder is empty" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            POINTER,
            "found a Git-LFS pointer instead of the file; fetch it again, or in a clone type: git -C {folder} lfs pull",
        ),
        ("", "found an empty file"),
    ],
)
def test_a_pointer_or_nothing_instead_of_a_file(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content)
    assert f"{folder / name}: {said.format(folder=folder)}" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "pytorch_model.bin", "added_tokens.json"])
def test_a_pointer_in_a_released_folder(tmp_path: Path, name: str) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / name).write_text(POINTER)
    assert f"{folder / name}: found a Git-LFS pointer" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"])
def test_a_pointer_among_shards(tmp_path: Path, name: str) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="shards")
    (folder / name).write_text(POINTER)
    assert f"{folder / name}: found a Git-LFS pointer" in refusal(folder)


def test_a_pointer_to_what_is_not_read_is_nobody_s_business(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_text(POINTER)  # model.safetensors is there
    (folder / "tf_model.h5").write_text(POINTER)
    load_llava(str(folder), "float32")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html>", "found no JSON"), (b"[1]", "found a JSON list"), (b"\xff\xfe{", "found no JSON")],
)
def test_no_json(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder / name}: {said}" in refusal(folder)


@pytest.mark.parametrize("left", [4, 8, 900, 60_000, -1])
def test_a_cut_safetensors(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    assert f"{path}: found " in refusal(folder)
    assert "fetch it again" in refusal(folder)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"PK\x03\x04 cut", b"x"])
def test_no_file_of_torch_save(tmp_path: Path, content: bytes) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / "pytorch_model.bin").write_bytes(content)
    assert f"{folder}/pytorch_model.bin: found no file of torch.save, or a part of one" in refusal(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_file_of_torch_save(tmp_path: Path, legacy: bool) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    path = folder / "pytorch_model.bin"
    torch.save(released_state(1, 403), path, _use_new_zipfile_serialization=not legacy)
    load_llava(str(folder), "float32")
    for cut in (200, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:-cut])
        assert "damaged" in refusal(folder) if legacy else f"{path}: found no file of torch.save" in refusal(folder)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "found no file of torch.save" in refusal(folder)


def test_one_whose_records_are_gone(tmp_path: Path) -> None:
    """The list of an archive is at its end: it may be there while what it lists is not."""
    folder = released_folder(tmp_path, 1, wraps=True)
    path = folder / "pytorch_model.bin"
    found = bytearray(path.read_bytes())
    found[: len(found) // 3] = bytes(len(found) // 3)
    found[:4] = b"PK\x03\x04"
    path.write_bytes(found)
    assert "damaged" in refusal(folder)


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    """Nobody is asked either: a question to the terminal would hang."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}})
    )
    (folder / "own.py").write_text("raise SystemExit('run')")
    with contextlib.suppress(ValueError):
        load_llava(str(folder), "float32")


@pytest.mark.parametrize("settings", [None, {"tokenizer_class": "LLaMATokenizer", "pad_token": "[PAD]"}])
def test_tokenizers_as_they_were_called_once(tmp_path: Path, settings: dict[str, str] | None) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / "tokenizer_config.json").unlink()
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, tokenizer = load_llava(str(folder), "float32")
    assert encode_prompt(tokenizer, "x", 1)[0] == 1
    assert max(tokenizer.get_vocab().values()) < model.get_input_embeddings().num_embeddings


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('run')",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path, legacy: bool) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    torch.save({"x": Evil()}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert "are no plain tensors, or damaged" in refusal(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    said = refusal(folder)
    assert f"{folder}: found none of model.safetensors, model.safetensors.index.json, pytorch_model.bin" in said
    assert "the folder holds " in said


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="shards")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert "1 of the 2 files it names are not there: pytorch_model-00002-of-00002.bin; fetch them again" in refusal(
        folder
    )


@pytest.mark.parametrize(
    "found", [{}, {"weight_map": []}, {"metadata": {}, "weight_map": {"a": 3}}, {"metadata": {}, "weight_map": {}}]
)
def test_an_index_of_nothing(tmp_path: Path, found: Any) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="shards")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(found))
    assert "found no index, expected metadata and the weight_map" in refusal(folder)


def test_an_index_that_leads_elsewhere(tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "a", 1, wraps=True, files="shards")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": "../x.bin"}}))
    assert "expected files of its own folder" in refusal(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "found no tokenizer, expected tokenizer.json or tokenizer.model" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_tokenizer_of_something_else(folder: Path, tmp_path: Path, name: str) -> None:
    if name == "tokenizer.json":
        (folder / name).write_text('{"version": "1.0", "model": 3}')
    else:
        folder = released_folder(tmp_path / "v1", 1, wraps=True)
        (folder / name).write_bytes(b"no sentencepiece")
    assert f"{folder}: found no tokenizer that can be read" in refusal(folder)


# Tensors that do not fit


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
        (("model.layers.0.self_attn.q_proj.lora_A.default.weight",), "this is a model with LoRA beside its weights"),
    ],
)
@pytest.mark.parametrize("files", ["bin", "shards", "safetensors"])
def test_a_trained_system_is_not_taken_for_a_llava(
    tmp_path: Path, names: tuple[str, ...], owner: str, files: str
) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="bin")
    (folder / "pytorch_model.bin").unlink()
    save_state(folder, released_state(1, 403) | {name: torch.ones(2) for name in names}, files)
    said = refusal(folder)
    assert owner in said
    assert sorted(names)[0] in said or sorted(names)[1] in said


def test_many_names_are_counted(folder: Path) -> None:
    more = {f"model.visual_model.{k}.weight": torch.ones(1) for k in range(10)}
    change(folder, lambda state: {**state, **more})
    said = refusal(folder)
    assert "model.visual_model.0.weight, model.visual_model.1.weight, model.visual_model.2.weight and 7 more" in said


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


def test_looking_at_a_folder_needs_no_torch() -> None:
    source = Path(base_model.__file__).read_text()
    assert "import torch" not in source
    assert "import transformers" not in source


def test_the_tiny_folders_are_of_the_sizes_they_say(tmp_path: Path) -> None:
    assert make_sentencepiece(tmp_path) == 400
    assert released_state(2, 400)["model.mm_projector.0.weight"].shape == (WIDTH, VISION)
