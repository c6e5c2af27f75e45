"""Which kernel a card would take for every attention of the project, at its real sizes. No GPU is needed for the question."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from stages.encoders import ENCODERS, Encoder
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam import encoder as sam_encoder
from stages.proposers.sam.decoder import PointDecoder
from stages.proposers.sam.encoder import FastEncoder
from stages.proposers.sam.model import new_sam
from stages.train.language.adapter import AdapterSizes, MaskAdapter
from stages.train.language.llava import FeatureLlava
from stages.train.memory import published
from tests.stages.fakecard import CARDS, Attention, attentions, fake_card

ROOT = Path(__file__).resolve().parents[2]
EVERY = (torch.bfloat16, torch.float32)
"""float16 is asked like bfloat16 from sm_80 on."""
OWN_ARITHMETIC = {
    "stages/proposers/sam/two_way.py": "a prompt has 7 tokens: their scores are no larger than what they attend to",
    "stages/train/llmseg/selector.py": "100 masks and one text token an image, in heads of 32",
}
"""Files with a softmax of their own -> why no fused kernel is needed."""
THROUGH_TORCH = {
    "stages/proposers/sam/encoder.py",
    "stages/proposers/sam/two_way.py",
    "stages/train/language/adapter.py",
}
"""Files that call torch's attention; libraries do so for the encoders and the language models. All are asked below."""


@pytest.fixture
def card() -> Iterator[list[Attention]]:
    with fake_card(), torch.device("cuda"), attentions() as found:
        yield found


def all_fused(found: list[Attention], at_least: int) -> None:
    assert len(found) >= at_least
    for card in CARDS:
        missed = {call for call in found if not call.fused(card)}
        assert not missed, f"sm_{card} would keep maps of tokens by tokens for {missed}"


def two_blocks(name: str) -> Any:
    """SAM's encoder with a windowed block and a global one: all others are like one of these."""
    encoder = new_sam(name).image_encoder.eval()
    blocks = list(encoder.blocks)
    encoder.blocks = torch.nn.ModuleList([blocks[0], next(block for block in blocks if not block.window_size)])
    return encoder


@pytest.mark.parametrize("name", SAM_MODELS)
def test_every_block_of_sams_encoder_has_a_fused_kernel(name: str, card: list[Attention]) -> None:
    encoder = two_blocks(name)
    for dtype in EVERY:
        with torch.inference_mode():
            FastEncoder(encoder, dtype)(torch.empty(4, 3, encoder.img_size, encoder.img_size))
    assert {call.dtype for call in card} == set(EVERY)
    all_fused(card, 4)


def test_without_filling_up_the_windows_would_have_none(card: list[Attention], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the width is a multiple of 8 for: the question can be answered with no."""
    monkeypatch.setattr(sam_encoder, "WIDTH_STEP", 1)
    with torch.inference_mode():
        FastEncoder(two_blocks("sam_vit_b"), torch.bfloat16)(torch.empty(1, 3, 1024, 1024))
    windows = [call for call in card if call.tokens == (196, 196)]
    assert {call.widths for call in windows} == {(92, 92, 64)}
    assert not any(call.fused(number) for call in windows for number in CARDS)


@pytest.mark.parametrize("name", ["sam_vit_b", "demo_sam"])  # the published three have one decoder
def test_the_attention_that_sams_prompts_share_has_a_fused_kernel(name: str, card: list[Attention]) -> None:
    sam = new_sam(name).eval()
    with torch.inference_mode():
        decoder = PointDecoder(sam, torch.float16)
        shared = decoder.image(torch.empty(SAM_MODELS[name].embed_dim, *sam.prompt_encoder.image_embedding_size))
        decoder.decode(shared, torch.empty(64, 2))
    all_fused(card, 1)


def architectures() -> dict[str, Encoder]:
    """Encoders that differ in what a kernel asks for, the width of a head, with two layers: all layers are alike."""
    found = {}
    for name, line in ENCODERS.items():
        if line.module not in ("sam", "openclip"):  # asked above; a ConvNeXt has no attention
            head = line.options.get("width", line.dim) // line.options["heads"]
            two = replace(line, options={**line.options, "layers": 2})
            found.setdefault((line.module, head, "registers" in line.options), (name, two))
    return dict(found.values())


@pytest.mark.parametrize(("name", "line"), architectures().items(), ids=architectures())
def test_every_encoder_has_a_fused_kernel(name: str, line: Encoder, card: list[Attention]) -> None:
    model = import_module(f"stages.encoders.{line.module}").make_model(line).eval().requires_grad_(False)
    side = line.options["input_px"]
    inputs: list[Any] = [torch.empty(2, 3, side, side)]
    if line.module == "alphaclip":
        inputs += [torch.empty(64, 1, side, side), [0] * 32 + [1] * 32]
    for dtype in EVERY:
        with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            model(*inputs)
    assert {call.dtype for call in card} == set(EVERY)
    all_fused(card, 4)


def steps_of(model: FeatureLlava) -> dict[str, Callable[[], Any]]:
    """What training and answering ask of a language model."""
    width = model.config.text_config.hidden_size
    language: Any = model.model.language_model

    def train() -> None:
        """Without a mask, as stages/train does. The library looks at values for several texts in a row, which is one."""
        with mock.patch("transformers.masking_utils.find_packed_sequence_indices", return_value=None):
            words = torch.empty(2, 700, width, dtype=torch.bfloat16, requires_grad=True)
            language(inputs_embeds=words, use_cache=False)

    def generate() -> None:
        """Prompts of different lengths, then a token."""
        prompts, there = torch.empty(2, 640, width, dtype=torch.bfloat16), torch.ones(2, 640, dtype=torch.bool)
        cache = language(inputs_embeds=prompts, attention_mask=there, use_cache=True).past_key_values
        word, there = torch.empty(2, 1, width, dtype=torch.bfloat16), torch.ones(2, 641, dtype=torch.bool)
        language(inputs_embeds=word, attention_mask=there, past_key_values=cache, use_cache=True)

    return {"train": train, "generate": generate}


@pytest.mark.parametrize("step", ["train", "generate"])
@pytest.mark.parametrize("name", published())
def test_every_language_model_has_a_fused_kernel(name: str, step: str, card: list[Attention]) -> None:
    config = published()[name]
    config.text_config.num_hidden_layers = 2
    model = FeatureLlava._from_config(config, dtype=torch.bfloat16).train(step == "train")
    with torch.set_grad_enabled(step == "train"):
        steps_of(model)[step]()
    assert all(call.gradient for call in card) == (step == "train")
    all_fused(card, 2)
    if step == "train":
        assert all(call.causal and not call.masked and call.flash(number) for call in card for number in CARDS)


def test_elisas_query_adapter_has_a_fused_kernel(card: list[Attention]) -> None:
    """One head as wide as the language model: too wide for flash."""
    adapter = MaskAdapter(AdapterSizes(512, variant="query", linears=2), 4096).train()
    for dtype in EVERY:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            adapter(torch.empty(2, 64, 512))
    assert {call.widths for call in card} == {(4096, 4096, 4096)}
    all_fused(card, 1)


def test_no_attention_is_left_out() -> None:
    """A new file that computes attention belongs in the questions above, or among those that say why not."""
    text = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "stages").rglob("*.py")}
    own = {name for name, code in text.items() if re.search(r"\.softmax\(", code)}
    through = {
        name for name, code in text.items() if re.search(r"\.scaled_dot_product_attention\(|MultiheadAttention\(", code)
    }
    assert own == set(OWN_ARITHMETIC)
    assert through == THROUGH_TORCH
