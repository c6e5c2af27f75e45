"""Models of the papers' sizes with random weights, and a store that the project's own pipeline makes with them.

The cost of a step does not depend on what the weights have learned; SAM's are calibrated so that as many masks pass its filters
as with the real weights (:mod:`tests.benchmarks.extraction.calibrated`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, CLIPVisionConfig, GemmaConfig, LlavaConfig

from pipeline.config import ROOT, InputError, Settings
from pipeline.params_file import load_settings
from stages.encoders import ENCODERS, clip
from stages.names import SplitRef
from stages.proposers.sam import SAM_MODELS
from stages.train.language.llava import FeatureLlava
from stages.train.memory import published
from stages.weights import WEIGHTS
from store.storage.files import file_sha256
from tests.benchmarks.extraction.pipeline import random_encoder, random_weights, save_states
from tests.benchmarks.processes import cell
from tests.benchmarks.training.setting import Setting, vector_columns

BATCH_SIZE = 2
_TOKENIZER = ROOT / "demo/models/demo_llava"


@dataclass(frozen=True)
class Sizes:
    """Names of vision models, and what the language model is.

    ``text``: name in :func:`stages.train.memory.published`; or the width of a small one, for tests. ``precision``: of all of them.
    """

    sam: str
    alphaclip: str
    dinov2: str
    clip: str
    text: str | int
    points_per_side: int
    precision: str

    def __str__(self) -> str:
        return f"{self.text}, {self.clip}, {self.dinov2}, {self.alphaclip}, {self.sam} with random weights"


REAL = Sizes(
    "sam_vit_h", "alphaclip_vit_b16_mask_only", "dinov2_vitl14", "clip_vit_l14_336", "LLaVA-Gemma 2B", 32, "bfloat16"
)


def prepare(
    sizes: Sizes, folder: Path, device: str, images: int, cores: list[int], overrides: Sequence[str] = ()
) -> Setting:
    """Weights, language model, demo scenes and their store below ``folder``.

    Raises:
        InputError: one of the steps failed; the message says which and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = cell(make_weights, cores, 1800, sizes=sizes, folder=str(folder), device=device)
    if "failed" in made:
        raise InputError(f"random weights: {made['failed']}")
    paths = {name: Path(path) for name, path in made["paths"].items()}
    settings = settings_of(sizes, folder, device, made["options"], overrides)
    answer = cell(make_store, cores, 3600, settings=settings, paths=paths, images=images)
    if "failed" in answer:
        raise InputError(f"the store of real size: {answer['failed']}")
    return Setting(settings, paths)


def make_weights(sizes: Sizes, folder: str, device: str) -> dict[str, Any]:
    """Checkpoints of towers and language model; returns their paths and the options that suit SAM's."""
    where = Path(folder)
    names = (sizes.sam, sizes.alphaclip, sizes.dinov2)
    paths, options = random_weights(where, names, device, sizes.points_per_side)
    paths |= save_states(random_encoder(sizes.clip, device), where)
    make_llava(sizes, where / "llava", device)
    return {"paths": {name: str(path) for name, path in paths.items()}, "options": options}


def make_llava(sizes: Sizes, folder: Path, device: str) -> None:
    """A LLaVA over features, with the demo's tokenizer: the vocabulary has full size, and the tokenizer uses its first words."""
    tokenizer, line = AutoTokenizer.from_pretrained(_TOKENIZER), ENCODERS[sizes.clip]
    config = _small(sizes.text) if isinstance(sizes.text, int) else published()[sizes.text]
    names = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "input_px": "image_size",
        "patch_px": "patch_size",
    }
    tower = {name: line.options[key] for key, name in names.items()}
    config.vision_config = CLIPVisionConfig(hidden_size=line.dim, **tower)  # what the column will hold
    config.image_token_id = config.image_token_index = tokenizer.convert_tokens_to_ids("<image>")
    config.image_seq_length = line.tokens
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, sizes.precision))  # loading as float32 first would take twice the GPU memory
    try:
        with torch.device(device):
            FeatureLlava(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(before)
    tokenizer.save_pretrained(folder)


def _small(width: int) -> LlavaConfig:
    text = GemmaConfig(
        vocab_size=1024, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=width // 4,
    )  # fmt: skip
    return LlavaConfig(text_config=text, tie_word_embeddings=True)


def settings_of(
    sizes: Sizes, folder: Path, device: str, options: Mapping[str, Any], overrides: Sequence[str] = ()
) -> Settings:
    """Those for ReasonSeg with these models; 16 bit, as in the originals, and no bitsandbytes, whose products nobody counts."""
    values = {
        "store": folder / "store", "shard_images": 8,
        "data": f"{{bench: {{format: reasonseg, images: bench, root: {folder / 'data'}, splits: [train]}}}}",
        "proposers": "{}", "proposers.sam.model": sizes.sam,
        "proposers.sam.precision": sizes.precision, **{f"proposers.sam.{key}": value for key, value in options.items()},
        "embed.sam_features": f"[{sizes.sam}]",
        "embed.mask_encoders": f"[{sizes.alphaclip}, {sizes.dinov2}]", "embed.image_encoders": f"[{sizes.clip}]",
        "embed.precision": sizes.precision, "means": "{bench: {train: [train]}}",
        "train.llava": folder / "llava", "train.base": sizes.precision, "train.image_encoder": sizes.clip,
        "train.batch_size": BATCH_SIZE, "train.gradient_checkpointing": "false", "train.optimizer": "adamw_torch_fused",
        "train.elisa.mask_encoder": sizes.alphaclip, "train.llmseg.mask_encoder": sizes.dinov2,
        "train.lisa.sam_model": sizes.sam,
        "run.device": device, "run.weights_dir": folder, "run.report_dir": folder / "report",
    }  # fmt: skip
    own = [f"{name}={value}" for name, value in values.items()]
    return load_settings(ROOT / "params/reasonseg.yaml", [*own, *overrides])


def make_store(settings: Settings, paths: Mapping[str, Path], images: int) -> dict[str, Any]:
    """Demo scenes through the pipeline, with checkpoints that nobody publishes."""
    from demo.data.dataset import DemoSizes, make_demo
    from pipeline.commands.normalize import run_normalize
    from pipeline.compute import compute_stage
    from pipeline.executors import open_executor

    for name, path in paths.items():  # only this process treats them as the published ones
        digest = file_sha256(path)
        WEIGHTS[name] = replace(WEIGHTS[name], sha256=digest, path=path.name, committed=False)
    make_demo(settings.folders("bench").folders[0], DemoSizes(train=images, val=0, test=0))
    with open_executor(settings) as executor:
        for stage in ("index", "masks", "embed", "match"):
            compute_stage(settings, stage, SplitRef("bench", "train"), executor)
        run_normalize(settings, executor)
    return {"images": images}


def gpu_name() -> dict[str, str]:
    """The GPU's name; empty without a GPU."""
    return {"name": torch.cuda.get_device_name() if torch.cuda.is_available() else ""}


def tower_sizes(setting: Setting, system: str) -> dict[str, int]:
    """Parameters of every vision model that some side re-runs for a system."""
    from stages.encoders import alphaclip, dinov2
    from stages.proposers.sam.model import new_sam

    makers = {"clip": clip.make_model, "alphaclip": alphaclip.make_model, "dinov2": dinov2.make_model}
    names = {name.rpartition("/")[2] for name in vector_columns(setting, system).values()} - {*SAM_MODELS}
    with torch.device("meta"):
        models = {
            name: makers[ENCODERS[name].module](ENCODERS[name]) for name in names if ENCODERS[name].module in makers
        }
        models |= {name: new_sam(name) for name in setting.settings.embed.sam_features}
    return {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
