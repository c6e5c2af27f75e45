"""The memory plan counts what the real classes have, and what autograd really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlavaConfig

from stages.train.language.llava import FeatureLlava
from stages.train.memory import CARD, kept_by_a_layer, parameters, plan, published


def kept(model: FeatureLlava, tokens: int) -> int:
    """Bytes that autograd keeps of a language model's pass over one sequence, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    states = torch.randn(1, tokens, model.config.text_config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model.language_model(inputs_embeds=states, use_cache=False)
    return sum(found.values())


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_activations_are_what_autograd_keeps(text_config: Any, family: str) -> None:
    """The difference between four layers and two: what comes before and behind the layers is left out."""
    sizes = []
    for layers in (2, 4):
        text = text_config(family)
        text.num_hidden_layers, text.intermediate_size, text.hidden_size, text.head_dim = layers, 256, 96, 24
        model = FeatureLlava(LlavaConfig(text_config=text, vision_config={"model_type": "clip_vision_model"}))
        sizes.append(kept(model, 64))
    layer = (sizes[1] - sizes[0]) / 2 / 64
    assert kept_by_a_layer(text, 4) == pytest.approx(layer, rel=0.25)


def test_parameters_are_those_of_the_published_models() -> None:
    counts = {name: sum(parameters(config).values()) for name, config in published().items()}
    assert counts["LLaVA 7B"] == pytest.approx(6.76e9, rel=0.01)
    assert counts["LLaVA 13B"] == pytest.approx(13.05e9, rel=0.01)
    assert counts["LLaVA-Gemma 2B"] == pytest.approx(2.51e9, rel=0.01)


def test_what_should_make_it_smaller_does() -> None:
    gemma = published()["LLaVA-Gemma 2B"]
    how: dict[str, Any] = {
        "optimizer": "adamw_bnb_8bit",
        "trained": 10**7,
        "batch_size": 2,
        "length": 700,
        "answer": 64,
    }
    plain = plan(gemma, "bfloat16", gradient_checkpointing=False, **how)
    assert plan(gemma, "bfloat16", gradient_checkpointing=True, **how).activations < plain.activations / 3
    four = plan(gemma, "4bit", gradient_checkpointing=True, **how)
    assert four.weights < plain.weights / 2
    assert four.total < CARD
    assert "fits a card of 24 GB" in str(four)
    large = plan(published()["LLaVA 13B"], "bfloat16", gradient_checkpointing=True, **how)
    assert "does not fit" in str(large)
