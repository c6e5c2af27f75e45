"""How much memory a fine-tune takes, before it begins: weights, optimiser, activations by batch and sequence length.

`python -m stages.train.memory` prints the table of docs/training.md. The counts of parameters are those of the real classes
on torch's meta device; activations are what autograd keeps (a test compares the estimate with it); an allowance covers what
CUDA and its allocator take on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import GemmaConfig, LlamaConfig, LlavaConfig

from stages.train.language.llava import FeatureLlava, clip_config

CARD = 24 * 1024**3
"""Memory of an RTX 3090, in bytes."""
_NF4 = 0.5 + 1 / 128 + 4 / 16384
"""Bytes per weight: 4 bit, a byte per block of 64, and a float per 256 blocks (bitsandbytes, doubly quantised)."""
LINEAR_BYTES = {"float32": 4.0, "bfloat16": 2.0, "8bit": 1.0, "4bit": _NF4}
OPTIMIZER_BYTES = {"adamw_bnb_8bit": 2.0, "paged_adamw_8bit": 2.0}
"""Bytes per trained parameter; 8 for the two float32 moments of any other Adam."""
_CONTEXT, _SLACK = 700 * 1024**2, 1.1
"""Bytes of a CUDA context, and the factor for memory lost between blocks."""


@dataclass(frozen=True)
class Plan:
    """Bytes."""

    weights: float
    """The frozen language model and the projector."""
    trained: float
    """Trained parameters in float32, their gradients and the optimiser's moments."""
    activations: float
    """What a step keeps for the backward pass."""
    logits: float
    """Scores of the answers' tokens over the vocabulary, and their gradient."""
    other: float
    """A layer converted to 16 bit for its product, CUDA's context, and memory lost between blocks."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return float(sum(getattr(self, field.name) for field in fields(self)))

    def __str__(self) -> str:
        parts = ", ".join(f"{field.name} {getattr(self, field.name) / 1e9:.2f}" for field in fields(self))
        room = "fits" if self.total <= CARD else "does not fit"
        return f"memory: {self.total / 1e9:.1f} GB ({parts}); {room} a card of 24 GB"


def plan(
    config: LlavaConfig,
    base: str,
    optimizer: str,
    trained: int,
    batch_size: int,
    length: int,
    answer: int,
    gradient_checkpointing: bool,
) -> Plan:
    """Memory of a step on a GPU.

    Args:
        base: type of the frozen weights, as ``train.base``.
        trained: number of parameters that are trained.
        length, answer: tokens of a sequence, features of the image included, and tokens that have labels.
    """
    text, counts = config.text_config, parameters(config)
    width = 4 if base == "float32" else 2
    layer = kept_by_a_layer(text, width)
    tokens = batch_size * length
    if gradient_checkpointing:
        activations = tokens * (text.num_hidden_layers * text.hidden_size * width + layer)
    else:
        activations = tokens * text.num_hidden_layers * layer
    weights = counts["linear"] * LINEAR_BYTES[base] + counts["rest"] * width
    own = trained * (4 + 4 + OPTIMIZER_BYTES.get(optimizer, 8.0))
    logits = batch_size * answer * text.vocab_size * (width + 4 + 4)
    widened = text.hidden_size * text.intermediate_size * 2 if base in ("4bit", "8bit") else 0
    held = weights + own + activations + logits + widened
    return Plan(weights, own, activations, logits, widened + _CONTEXT + (_SLACK - 1) * held)


def parameters(config: LlavaConfig) -> dict[str, int]:
    """Parameters in the linear layers of the language model (``linear``: these are quantised) and all others (``rest``)."""
    with torch.device("meta"):
        model = FeatureLlava(config)
    counts = {"linear": 0, "rest": 0}
    for name, weight in model.named_parameters():
        counts["linear" if weight.ndim == 2 and ".layers." in name else "rest"] += weight.numel()
    return counts


def kept_by_a_layer(text: Any, width: int) -> float:
    """Bytes per token that autograd keeps of one layer.

    A norm keeps its input in float32, what it is divided by and its result; attention its queries, keys, values and result;
    the gated MLP its two halves, the activation and their product. The rotation of queries and keys keeps nothing new.
    """
    heads, groups, dim = text.num_attention_heads, text.num_key_value_heads, text.head_dim
    attention = (2 * heads + 2 * groups + heads) * dim * width
    mlp = 4 * text.intermediate_size * width
    norms = 2 * text.hidden_size * (2 * 4 + 2 * width)
    return float(attention + mlp + norms)


def published() -> Mapping[str, LlavaConfig]:
    """The language models of the papers."""
    clip = clip_config(1024)
    llama: dict[str, Any] = {"vocab_size": 32064, "max_position_embeddings": 4096}
    gemma = GemmaConfig(
        vocab_size=256064, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8,
        num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    large = LlamaConfig(
        **llama, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    )
    return {
        "LLaVA-Gemma 2B": LlavaConfig(text_config=gemma, vision_config=clip, tie_word_embeddings=True),
        "LLaVA 7B": LlavaConfig(text_config=LlamaConfig(**llama), vision_config=clip),
        "LLaVA 13B": LlavaConfig(text_config=large, vision_config=clip),
    }


def main() -> None:
    """Print the table."""
    print(
        "| language model | base | batch | tokens | checkpointing | weights | trained | activations | logits | other | GB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, base, batch, length, checkpointing in (
        ("LLaVA-Gemma 2B", "4bit", 2, 700, False),
        ("LLaVA-Gemma 2B", "4bit", 2, 700, True),
        ("LLaVA-Gemma 2B", "bfloat16", 8, 700, True),
        ("LLaVA 7B", "4bit", 2, 512, True),
        ("LLaVA 7B", "bfloat16", 2, 512, True),
        ("LLaVA 13B", "4bit", 2, 512, True),
        ("LLaVA 13B", "8bit", 2, 512, True),
    ):
        found = plan(published()[name], base, "adamw_bnb_8bit", 20_000_000, batch, length, 64, checkpointing)
        parts = " | ".join(f"{getattr(found, field.name) / 1e9:.2f}" for field in fields(found))
        word = "yes" if checkpointing else "no"
        print(f"| {name} | {base} | {batch} | {length} | {word} | {parts} | **{found.total / 1e9:.1f}** |")


if __name__ == "__main__":
    main()
