"""Tiny folders in the form of haotian-liu/LLaVA: sentencepiece, ``mm_*`` in config.json, its own names of tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from stages.train.language.llava import load_llava

SENTENCES = [
    "Which thing opens a lock?",
    "the key at c5",
    "What is  two spaces wide?",
    "12 cups",
    "the café's ünïcode \N{SNOWMAN} key",
    "Where, in this image, is the thing that can be used to drink (hot) tea?",
]
WORDS = ("<im_patch>", "<im_start>", "<im_end>")
WIDTH, VISION = 32, 24
DEMO = "demo/models/demo_llava"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 13476839424\n"


def refusal(folder: Path | str) -> str:
    """What is said when a folder is not loaded."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are the tests' own
        load_llava(str(folder), "float32")
    return str(caught.value)


def make_sentencepiece(folder: Path) -> int:
    """``tokenizer.model`` in Llama's way (byte fallback, digits apart, a space in front), and its number of pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    said = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful answers."
    )
    lines = [
        *SENTENCES,
        said,
        "USER: What is the key in this image? ASSISTANT: It is the key. Sure, it is nothing.",
    ] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    return 400


def released_state(layers: int, rows: int) -> dict[str, torch.Tensor]:
    """Tensors by haotian-liu/LLaVA's names: a Llama's and the projector of one or two layers."""
    torch.manual_seed(0)
    config = LlamaConfig(**sizes(rows))
    state = {name: torch.randn_like(value) * 0.3 for name, value in LlamaForCausalLM(config).state_dict().items()}
    shapes = {f"{prefix}weight": (WIDTH, width) for prefix, width in projector(layers)}
    shapes |= {f"{prefix}bias": (WIDTH,) for prefix, _ in projector(layers)}
    state |= {f"model.mm_projector.{name}": torch.randn(shape) for name, shape in shapes.items()}
    tower = "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"
    return {**state, tower: torch.randn(VISION), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.randn(4)}


def projector(layers: int) -> list[tuple[str, int]]:
    return [("", VISION)] if layers == 1 else [("0.", VISION), ("2.", WIDTH)]


def sizes(rows: int) -> dict[str, Any]:
    return {
        "vocab_size": rows, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "tie_word_embeddings": False,
    }  # fmt: skip


def released_folder(folder: Path, layers: int, wraps: bool, files: str = "bin", **changes: Any) -> Path:
    """LLaVA v1 (``layers`` 1) or LLaVA-1.5 (2).

    Args:
        wraps: with ``<im_patch>``, ``<im_start>`` and ``<im_end>``.
        files: bin, shards (of torch.save, with an index) or safetensors.
        changes: of config.json.
    """
    pieces = make_sentencepiece(folder)
    rows = pieces + (len(WORDS) if wraps else 0)
    small = {
        "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "model_max_length": 2048},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        **({"added_tokens.json": {word: pieces + n for n, word in enumerate(WORDS)}} if wraps else {}),
    }
    tower = "openai/clip-vit-large-patch14" + ("-336" if layers == 2 else "")
    config = {
        **sizes(rows), "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_hidden_size": VISION,
        "mm_use_im_start_end": wraps, "mm_vision_select_layer": -2, "mm_vision_tower": tower, "use_mm_proj": True,
        **({"mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad"} if layers == 2 else {}), **changes,
    }  # fmt: skip
    for name, value in {**small, "config.json": config}.items():
        (folder / name).write_text(json.dumps(value))
    save_state(folder, released_state(layers, rows), files)
    return folder


def save_state(folder: Path, state: dict[str, torch.Tensor], files: str) -> None:
    if files == "safetensors":
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    elif files == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        names = sorted(state)
        parts = {f"pytorch_model-0000{k + 1}-of-00002.bin": names[k::2] for k in range(2)}
        for file, own in parts.items():
            torch.save({name: state[name] for name in own}, folder / file)
        places = {name: file for file, own in parts.items() for name in own}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
