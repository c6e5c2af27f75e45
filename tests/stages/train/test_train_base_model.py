"""Which folders are loaded as the LLaVA to start from, and where they are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.train.language import base_model
from stages.train.language.base_model import ROOT, locate_llava
from stages.train.language.llava import load_llava
from stages.train.language.text import IMAGE, encode_prompt
from stages.train.run_digest import llava_digest
from tests.stages.train.released import (
    DEMO,
    VISION,
    WIDTH,
    make_sentencepiece,
    refusal,
    released_folder,
    released_state,
    save_state,
)

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
        assert f"{ROOT}/config.json: found no such file" in refusal(name)


def test_a_file(folder: Path) -> None:
    assert "found a file, expected a folder" in refusal(folder / "model.safetensors")


def test_looking_at_a_folder_needs_no_torch() -> None:
    source = Path(base_model.__file__).read_text()
    assert "import torch" not in source
    assert "import transformers" not in source


def test_the_tiny_folders_are_of_the_sizes_they_say(tmp_path: Path) -> None:
    assert make_sentencepiece(tmp_path) == 400
    assert released_state(2, 400)["model.mm_projector.0.weight"].shape == (WIDTH, VISION)
