"""LLaVA from features is LLaVA: the same logits, the same text, and nothing of a vision tower."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from stages.train.language import llava
from stages.train.language.llava import FeatureLlava, check_tokens, image_scale, inject_lora, load_llava, v1_config
from stages.train.language.text import IMAGE, VICUNA_V1, collate, encode, encode_prompt, render
from stages.train.language.vocabulary import ExtendedLlava

Full = Callable[[str], tuple[LlavaForConditionalGeneration, Path]]


@torch.no_grad()
def tower(model: LlavaForConditionalGeneration, pixels: torch.Tensor) -> torch.Tensor:
    """What the store holds: hidden layer -2 without the class token."""
    hidden: torch.Tensor = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    return hidden[:, 1:]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_logits_and_text_are_those_of_the_whole_model(full_llava: Full, tokenizer: Any, family: str) -> None:
    whole, folder = full_llava(family)
    ours, _ = load_llava(str(folder), "float32")
    ours.model.config.image_scale = 1.0  # what transformers itself does since 5.4
    pixels = torch.randn(2, 3, 32, 32)
    prompts = [
        encode_prompt(tokenizer, f"{IMAGE}\n{text}", 16) for text in ("Which thing opens a lock?", "the key is it")
    ]
    length = min(map(len, prompts))
    ids = torch.tensor([prompt[:length] for prompt in prompts])
    features = tower(whole, pixels)
    with torch.no_grad():
        want = whole(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(ours(input_ids=ids, pixel_values=features).logits, want, rtol=1e-4, atol=1e-4)
    how = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False}
    assert torch.equal(
        ours.generate(**how, pixel_values=features), whole.generate(**how, pixel_values=pixels)
    )  # fmt: skip


@pytest.mark.parametrize(("base", "layer", "near"), [("8bit", "Linear8bitLt", 0.01), ("4bit", "Linear4bit", 0.05)])
def test_quantised_are_the_layers_of_the_language_model_alone(base: llava.Base, layer: str, near: float) -> None:
    folder = str(Path(__file__).parents[3] / "demo/models/demo_llava")
    adapter = {"words": ("[REJ]",), "adapter": {"dim_in": 6, "dropout": 0.0, "noise": 0.0}}
    models = [load_llava(folder, kind, "cpu", ExtendedLlava, adapter) for kind in ("float32", base)]
    (exact, tokenizer), (quantised, _) = models
    quantised.load_state_dict({"words": exact.words, **exact.adapter.state_dict(prefix="adapter.")}, strict=False)
    for name, module in quantised.named_modules():
        if isinstance(module, torch.nn.Linear):
            inside = name.startswith("model.language_model.")
            assert (type(module).__name__ == layer) == inside, name
    ids = torch.tensor([encode_prompt(tokenizer, f"{IMAGE}\nWhat opens a lock?", 64)])
    features = torch.randn(1, 64, exact.config.vision_config.hidden_size)
    with torch.no_grad():
        want = exact(input_ids=ids, pixel_values=features, masks=torch.ones(1, 2, 6)).logits
        with torch.autocast("cpu", torch.bfloat16):
            found = quantised(input_ids=ids, pixel_values=features, masks=torch.ones(1, 2, 6)).logits
    assert (found - want).abs().mean() < near * want.abs().mean()


def test_gemma_s_image_features_enter_as_when_it_was_trained(full_llava: Full, tokenizer: Any) -> None:
    """transformers before 5.4 multiplied all that enters Gemma by the square root of its width."""
    whole, folder = full_llava("gemma")
    ours, _ = load_llava(str(folder), "float32")
    assert ours.config.image_scale == pytest.approx(32**0.5)
    ids = torch.tensor([encode_prompt(tokenizer, f"{IMAGE}\nWhich thing?", 16)])
    features = torch.randn(1, 16, 24)
    with torch.no_grad():
        words = whole.get_input_embeddings()
        rows = words.weight[ids].clone()  # unscaled
        rows[ids == whole.config.image_token_id] = whole.model.multi_modal_projector(features)[0]
        want = whole.lm_head(whole.model.language_model(inputs_embeds=rows * 32**0.5).last_hidden_state)
        torch.testing.assert_close(ours(input_ids=ids, pixel_values=features).logits, want, rtol=1e-4, atol=1e-4)
    whole, folder = full_llava("llama")
    assert image_scale(whole.config) == 1


def test_no_tower_is_built_and_none_of_its_tensors_is_read(full_llava: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = full_llava("gemma")
    read: list[str] = []

    class Slice:
        def __init__(self, inner: Any, name: str) -> None:
            self.inner, self.name = inner, name

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __getitem__(self, item: Any) -> Any:
            read.append(self.name)
            return self.inner[item]

    class Spy:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("backend", None)
            self.inner = safe_open(*args, **kwargs)

        def __enter__(self) -> Spy:
            self.inner.__enter__()
            return self

        def __exit__(self, *args: Any) -> None:
            self.inner.__exit__(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def get_slice(self, name: str) -> Slice:
            return Slice(self.inner.get_slice(name), name)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a vision tower was built")

    monkeypatch.setattr(transformers.modeling_utils, "safe_open", Spy)
    monkeypatch.setattr(transformers.CLIPVisionModel, "__init__", refuse)
    ours, _ = load_llava(str(folder), "float32")
    assert not [name for name in ours.state_dict() if "vision" in name]
    stored = load_file(folder / "model.safetensors")
    assert any("vision_tower" in name for name in stored)
    assert read, "the spy saw nothing"
    assert not [name for name in read if "vision" in name]


def test_a_checkpoint_of_llava_v1(full_llava: Full, tokenizer: Any, tmp_path: Path) -> None:
    """haotian-liu/LLaVA's own keys, one linear projector, no ``<image>`` among the tokens of the model."""
    whole, _ = full_llava("llama")
    state = {
        name.removeprefix("model.language_model.") if "lm_head" in name else name.replace("language_model.", ""): value
        for name, value in whole.state_dict().items()
        if "vision" not in name and "projector" not in name
    }
    projector = torch.nn.Linear(24, 32)
    state |= {"model.mm_projector.weight": projector.weight.data, "model.mm_projector.bias": projector.bias.data}
    folder = tmp_path / "v1"
    folder.mkdir()
    save_file(
        {name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    text = whole.config.text_config.to_dict()
    config = {**text, "model_type": "llava", "mm_hidden_size": 24, "mm_vision_tower": "openai/clip-vit-large-patch14"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    ours, _ = load_llava(str(folder), "float32")
    torch.testing.assert_close(ours.model.multi_modal_projector.linear_1.weight, projector.weight)
    torch.testing.assert_close(ours.lm_head.weight, whole.lm_head.weight)
    ids = torch.tensor([encode_prompt(tokenizer, "Which thing opens a lock?", 16)])
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=ids).logits, whole(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_the_configuration_of_a_published_llava_v1_is_read() -> None:
    raw = {
        "model_type": "llava",
        "hidden_size": 4096,
        "mm_hidden_size": 1024,
        "mm_vision_select_layer": -2,
        "vocab_size": 32003,
    }
    found = v1_config(raw)
    assert found.vision_config.hidden_size == 1024
    assert found.text_config.hidden_size == 4096
    assert found.mm_projector_type == "linear"


def test_a_model_that_misses_tensors_or_tokens_is_refused(full_llava: Full, tokenizer: Any) -> None:
    _, folder = full_llava("gemma")
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if "layers.1" in name)
    save_file({key: value for key, value in state.items() if key != name}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are missing, the first is model\.language_model\.layers\.1"):
        load_llava(str(folder), "float32")
    save_file(state, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "image_token_index": 7}))
    with pytest.raises(ValueError, match="<image> is 6 to the tokenizer and 7 to the model"):
        load_llava(str(folder), "float32")


def test_an_image_token_behind_the_embeddings_is_refused(full_llava: Full, tokenizer: Any) -> None:
    """Its id would be that of the first word that a system learns."""
    _, folder = full_llava("gemma")
    model, _ = load_llava(str(folder), "float32")
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens([f"<more_{number}>" for number in range(9)])
    own = max(tokenizer.get_vocab().values()) + 1  # the model has 8 embeddings more
    with pytest.raises(ValueError, match=f"the tokenizer knows {own + 9} ids, the model has {own + 8} embeddings"):
        check_tokens(model, longer, folder)


def test_lora_is_put_into_the_language_model_alone(full_llava: Full) -> None:
    _, folder = full_llava("gemma")
    model, _ = load_llava(str(folder), "float32")
    model.requires_grad_(False)
    inject_lora(model, r=2, alpha=4, dropout=0.0, targets=("q_proj", "v_proj"))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 2 * 2  # A and B, two projections, two layers
    assert all("language_model" in name and "lora_" in name for name in trained)
    fresh, _ = load_llava(str(folder), "float32")
    with pytest.raises(ValueError, match="output_proj"):
        inject_lora(fresh, r=2, alpha=4, dropout=0.0, targets=("output_proj",))


def test_labels_are_the_answers_and_nothing_else(tokenizer: Any) -> None:
    turns = [(f"{IMAGE}\nWhich thing opens a lock?", "The key."), ("Which is at c5?", "Nothing in the picture.")]
    found = encode(tokenizer, turns, 16)
    assert found.ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 16
    labelled = [token for token, label in zip(found.ids, found.labels, strict=True) if label != llava.IGNORED]
    assert tokenizer.decode(labelled) == "The key.<end_of_turn>\nNothing in the picture.<end_of_turn>\n"
    first = found.labels.index(labelled[0])
    assert found.ids[:first] == encode_prompt(tokenizer, turns[0][0], 16)
    short = encode(tokenizer, turns[:1], 16)
    batch = collate([found, short], 0)
    assert batch["labels"].shape == batch["input_ids"].shape == (2, len(found.ids))
    assert (batch["labels"][1, len(short.ids) :] == llava.IGNORED).all()


def test_tokenizers_without_a_template_speak_vicuna(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    text = render(tokenizer, [("a", "b")], "c")
    system = VICUNA_V1.split("{%")[0]
    assert text == f"{system} USER: a ASSISTANT: b</s>USER: c ASSISTANT:"
    labelled = [label for label in encode(tokenizer, [("the key", "The answer")], 1).labels if label != llava.IGNORED]
    assert tokenizer.decode(labelled).strip() == "The answer</s>"


def test_the_name_of_the_class_is_not_the_library_s() -> None:
    assert FeatureLlava.__name__ != LlavaForConditionalGeneration.__name__
