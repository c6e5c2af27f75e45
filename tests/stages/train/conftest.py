"""Tiny LLaVAs of both families, saved as Hugging Face saves them, and a tokenizer of the field's form."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from factory import Known, full_store, vectors, write_vectors
from transformers import GemmaConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from demo.models.train_llava import make_tokenizer
from stages.base import ColumnSpec
from stages.dense import channel_axis, dense_specs
from stages.train import run
from stages.train.params import TrainParams
from stages.train.system import ALWAYS, Batch
from store import open_split
from store.dense import to_int8
from store.format.column import ArrayLayout
from store.format.layout import parts_of
from store.split import Split
from store.torch import loader

ROOT = Path(__file__).resolve().parents[3]

WORDS = ["Which thing opens a lock? Please segment it. The answer is the key at c5. Nothing in the picture does."] * 20
PATCHES, VISION = 16, {
    "model_type": "clip_vision_model", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "image_size": 32, "patch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer(WORDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo's LLaVA, as transformers wrote it, that a test may spoil."""
    return Path(shutil.copytree(ROOT / "demo/models/demo_llava", tmp_path / "llava"))


@pytest.fixture
def text_config(tokenizer: Any) -> Callable[[str], GemmaConfig | LlamaConfig]:
    """Family -> a tiny language model's configuration."""
    return lambda family: tiny_text(family, tokenizer)


def tiny_text(family: str, tokenizer: Any) -> GemmaConfig | LlamaConfig:
    rows = max(tokenizer.get_vocab().values()) + 1
    sizes: dict[str, Any] = {
        "vocab_size": rows + 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    return GemmaConfig(**sizes) if family == "gemma" else LlamaConfig(**sizes, tie_word_embeddings=False)


@pytest.fixture
def full_llava(tmp_path: Path, tokenizer: Any) -> Callable[[str], tuple[LlavaForConditionalGeneration, Path]]:
    """Family -> a whole LLaVA with random weights, and the folder it was saved to with its tokenizer."""

    def make(family: str) -> tuple[LlavaForConditionalGeneration, Path]:
        torch.manual_seed(0)
        config = LlavaConfig(
            text_config=tiny_text(family, tokenizer), vision_config=VISION, image_seq_length=PATCHES,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"), tie_word_embeddings=family == "gemma",
        )  # fmt: skip
        model = LlavaForConditionalGeneration(config).eval()
        with torch.no_grad():
            for weight in model.parameters():  # transformers starts at 0.02, where nothing would make a difference
                weight.copy_(torch.randn_like(weight) * (0.3 if weight.ndim > 1 else 0.1) + (weight.ndim == 1))
        model.tie_weights()
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return model, tmp_path / family

    return make


@pytest.fixture(scope="session")
def seg_store(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Five images, the first without masks, and the features that LLaVA's tower and the demo SAM would have made of them, in
    both forms."""
    known = full_store(tmp_path_factory.mktemp("seg"), images=5)
    for place, shape, dims in (
        ("d/image_features/tiny/val", (PATCHES, VISION["hidden_size"]), ("token", "dim")),
        ("d/sam_features/demo_sam/val", (64, 32, 32), ("channel", "y", "x")),
    ):
        layout = ArrayLayout(shape, shape[0], "float16", dimension_names=("image", *dims))
        made = vectors([shape[0]] * 5, layout)
        spec = ColumnSpec(parts_of(place)[1], "embed", ("images",), {}, 1, layout=layout)
        whole, *parts = dense_specs(spec, ("float16", "int8"))
        in_int8 = zip(*(to_int8(each, channel_axis(whole.name)) for each in made), strict=True)
        for column, rows in zip((whole, *parts), (made, *in_int8), strict=True):
            assert column.layout is not None
            there = f"d/{column.name}/val"
            write_vectors(known.store, there, list(rows), {"images": known.images}, layout=column.layout)
    return known


@pytest.fixture
def seg_split(seg_store: Known) -> Split:
    return open_split(seg_store.store, "d", "val")


@pytest.fixture(scope="session")
def sam_weights() -> Callable[[str], Path]:
    """Knows the one checkpoint that training may ask for."""
    return {"demo_sam": ROOT / "demo/models/demo_sam.safetensors"}.__getitem__


@pytest.fixture
def seg_params(full_llava: Callable[[str], Any]) -> Callable[..., TrainParams]:
    """System and its own values -> the demo's params made to fit :func:`seg_store`."""

    def make(system: str, family: str = "gemma", base: str = "float32", **own: Any) -> TrainParams:
        values = yaml.safe_load((ROOT / "params.yaml").read_text())["train"]
        values |= {"llava": str(full_llava(family)[1]), "base": base, "image_encoder": "tiny", "train": ["val"]}
        values |= {"epochs": 1, "batch_size": 4, "accumulation": 1, "gradient_checkpointing": False, "seed": 3}
        values["llmseg"] |= {"mask_encoder": "x", "geometry": True, "dim": 16, "mlp_dim": 24, "max_new_tokens": 6}
        values["lisa"] |= {"sam_model": "demo_sam", "max_new_tokens": 6}
        for name in ("llmseg", "lisa"):
            values[name]["answers"] = None
        values[system] = {**values.get(system, {}), **own}  # params.yaml has no section of a system that is new
        return TrainParams.model_validate(values)

    return make


@pytest.fixture
def seg_system(
    seg_params: Callable[..., TrainParams], seg_split: Split, sam_weights: Callable[[str], Path]
) -> Callable[..., Any]:
    """System and arguments of :func:`seg_params` -> it, ready to train."""

    def make(system: str, **how: Any) -> Any:
        params = seg_params(system, **how)
        torch.manual_seed(1)
        made = run.system_class(system).build(params, seg_split, "cpu", sam_weights)
        run.prepare(made, params)
        made.model.eval()
        return made

    return make


@pytest.fixture
def seg_batch(seg_split: Split) -> Callable[..., Batch]:
    """System -> all targets of the split as one batch."""

    def make(system: Any, training: bool) -> Batch:
        names = {**ALWAYS, **system.columns(system.params, training)}
        view = system.candidates(system.params, training)
        return next(iter(loader(seg_split.stream(names, 100, level="target", candidates=view))))  # type: ignore[no-any-return]

    return make
