"""LLaVA without its vision tower: stored patch features go where the tower's output went.

Everything else is Hugging Face's ``LlavaForConditionalGeneration``: checkpoints, projector, language model, ``generate``. The
features take the place of ``pixel_values``, so no code of the library is copied.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel, LlavaMultiModalProjector, LlavaPreTrainedModel
from transformers.utils import logging

from stages.train.language.base_model import (
    TOWER,
    check_folder,
    form_of,
    locate_llava,
    read_config,
    refuse_tensors,
    refuse_trained,
)
from stages.train.language.tokenizer import IMAGE, add_image_words, load_tokenizer

Model = TypeVar("Model", bound="FeatureLlava")
Base = Literal["float32", "bfloat16", "8bit", "4bit"]
IGNORED = -100
"""Label of a position that does not count in the loss."""


class FeatureLlavaModel(LlavaModel):  # type: ignore[misc]
    """``LlavaModel`` over patch features float [B, P, C] in ``pixel_values``.

    Gemma multiplies what enters it by the square root of its width. Up to 5.3, with which LLaVA-Gemma was trained, transformers
    did that to words and image features alike; later versions do it only to words (huggingface/transformers#44432).
    ``config.image_scale`` is what image features are multiplied by here: :func:`image_scale`.
    """

    def __init__(self, config: LlavaConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.multi_modal_projector = make_projector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, **unused: Any) -> BaseModelOutputWithPooling:
        """Project features; what ``LlavaModel`` does after its tower."""
        dtype = next(self.multi_modal_projector.parameters()).dtype
        projected = self.multi_modal_projector(pixel_values.to(dtype)) * self.config.image_scale
        return BaseModelOutputWithPooling(pooler_output=list(projected))


class FeatureLlava(LlavaForConditionalGeneration):  # type: ignore[misc]
    """``LlavaForConditionalGeneration`` over :class:`FeatureLlavaModel`; the tower's tensors in a checkpoint are not read."""

    _keys_to_ignore_on_load_unexpected = (TOWER,)

    def __init__(self, config: LlavaConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        if getattr(config, "image_scale", None) is None:
            config.image_scale = image_scale(config)
        self.model = FeatureLlavaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


class LinearProjector(nn.Module):
    """The projector of LLaVA v1 (haotian-liu/LLaVA, ``mm_projector``): one linear layer."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.vision_config.hidden_size, config.text_config.hidden_size)

    def forward(self, image_features: torch.Tensor) -> torch.Tensor:
        """[B, P, C] -> [B, P, h]."""
        projected: torch.Tensor = self.linear_1(image_features)
        return projected


def make_projector(config: LlavaConfig) -> nn.Module:
    """Two layers as in LLaVA-1.5 and LLaVA-Gemma; one where ``config.mm_projector_type`` is "linear" (LLaVA v1)."""
    kind = getattr(config, "mm_projector_type", "mlp2x_gelu")
    makers = {"mlp2x_gelu": LlavaMultiModalProjector, "linear": LinearProjector}
    if kind not in makers:
        raise ValueError(f"mm_projector_type: found {kind!r}, expected one of {', '.join(makers)}")
    projector: nn.Module = makers[kind](config)
    return projector


def image_scale(config: LlavaConfig) -> float:
    """What image features were multiplied by when the checkpoint was trained: Gemma's factor, else 1."""
    text = config.text_config
    return float(text.hidden_size) ** 0.5 if text.model_type in ("gemma", "gemma2") else 1.0


HF_KEYS = {
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.language_model.",
    r"^multi_modal_projector\.": "model.multi_modal_projector.",
}
"""Keys of checkpoints that transformers wrote (the published ones' form; it applies them to its own classes alone) -> ours."""
V1_KEYS = {
    r"^model\.mm_projector\.(0\.|(?=weight|bias))": "model.multi_modal_projector.linear_1.",
    r"^model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"^model\.(layers|norm|embed_tokens)\b": r"model.language_model.\1",
}
"""Keys of haotian-liu/LLaVA's own checkpoints -> ours. The projector is one layer (LLaVA v1) or two (LLaVA-1.5)."""


def v1_config(config: dict[str, Any]) -> LlavaConfig:
    """A :class:`LlavaConfig` from the ``config.json`` of haotian-liu/LLaVA (``model_type`` "llava" with ``mm_*`` keys)."""
    text = {key: value for key, value in config.items() if not key.startswith("mm_") and key != "model_type"}
    return LlavaConfig(
        text_config={**text, "model_type": "llama"},
        vision_config=clip_config(config["mm_hidden_size"]),
        mm_projector_type=config.get("mm_projector_type", "linear"),
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
    )


def clip_config(hidden_size: int) -> dict[str, Any]:
    """The CLIP part of a LLaVA's configuration: only the width of the features is read; heads are 64 wide in all CLIPs."""
    return {
        "model_type": "clip_vision_model", "hidden_size": hidden_size, "num_attention_heads": max(1, hidden_size // 64)
    }  # fmt: skip


DAMAGED = ("PytorchStreamReader", "unexpected EOF", "torch.save", "weights_only")
"""Words in torch's RuntimeErrors about a file that it did not write, or that is incomplete."""


def read_llava(name: str) -> tuple[str, dict[str, Any]]:
    """Where a model is (:func:`~stages.train.language.base_model.locate_llava`), and its ``config.json``, of a form loaded here.

    Raises:
        ValueError: it is missing, incomplete, has another form, or is already trained.
    """
    where = locate_llava(name)
    if Path(where).is_absolute():
        raw = read_config(Path(where))
        for path in check_folder(Path(where)):
            with _plain_tensors(where):
                refuse_trained(tensor_names(path), where)
    else:
        try:
            raw, _ = LlavaConfig.get_config_dict(where)
        except OSError as error:
            raise ValueError(f"{where}: neither a folder here nor a model of the Hugging Face hub: {error}") from error
    form_of(raw, where)
    return where, raw


def make_config(raw: dict[str, Any], where: str) -> LlavaConfig:
    """The configuration that a ``config.json`` of either form stands for; ValueError if a value in it cannot be."""
    try:
        released = form_of(raw, where) == "haotian-liu"
        return v1_config(raw) if released else LlavaConfig.from_dict(raw)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: config.json: {error}") from error


def load_llava(
    name: str,
    base: Base = "bfloat16",
    device: str = "cpu",
    model_class: type[Model] = FeatureLlava,  # type: ignore[assignment]
    extra: Mapping[str, Any] | None = None,
) -> tuple[Model, Any]:
    """A model and its tokenizer.

    Args:
        name: a folder (from the repository root, or absolute), or the id of a model on the Hugging Face hub.
        base: type of the language model's weights; ``8bit`` and ``4bit`` by bitsandbytes (nf4, doubly quantised).
        model_class: may have new parameters that the checkpoint lacks; ``extra`` in the configuration describes them.

    Raises:
        ValueError: there is no such model, it is of another kind or already trained, its files are incomplete, its tensors
            differ from the configuration, or tokenizer and model do not fit together.
    """
    options: dict[str, Any] = {"dtype": torch.float32 if base == "float32" else torch.bfloat16, "device_map": device}
    if base in ("8bit", "4bit"):
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=base == "8bit",
            load_in_4bit=base == "4bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            llm_int8_skip_modules=[r"(?!model\.language_model\.).*"],  # patterns; used for 4 bit too
        )
    where, raw = read_llava(name)
    config, released = make_config(raw, where), form_of(raw, where) == "haotian-liu"
    config.update(dict(extra or {}))
    options |= {"config": config, "key_mapping": V1_KEYS if released else HF_KEYS}
    model = _load(where, model_class, options)
    tokenizer = load_tokenizer(where, config.text_config.model_type, released)
    if released:
        add_image_words(tokenizer, raw, model.config.text_config.vocab_size, where)
        model.config.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        model.resize_token_embeddings(max(len(tokenizer), model.config.text_config.vocab_size), mean_resizing=False)
    check_tokens(model, tokenizer, where)
    return model, tokenizer


def _load(where: str, model_class: type[Model], options: Mapping[str, Any]) -> Model:
    """The model with every tensor of the checkpoint in its place; ValueError if one is left over, missing or of another shape."""
    with _quiet(), _plain_tensors(where):
        model, found = model_class.from_pretrained(
            where, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    for tensor, stored, expected in sorted(found["mismatched_keys"]):
        raise ValueError(
            f"{where}: {len(found['mismatched_keys'])} tensors have another shape than config.json says, the first is {tensor}: "
            f"found {list(stored)}, expected {list(expected)}"
        )
    own = [key for key in found["missing_keys"] if key.startswith(("model.", "lm_head."))]
    refuse_tensors(own, found["unexpected_keys"], where)
    return model  # type: ignore[no-any-return]


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a file of ``torch.save``, which are not read; empty for a file from before torch 1.6."""
    if not zipfile.is_zipfile(path):
        return []
    found = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    return [str(name) for name in found] if isinstance(found, Mapping) else []


@contextmanager
def _plain_tensors(where: str) -> Iterator[None]:
    """Turn errors about the files into ValueErrors; errors of disk, network or device are passed on."""
    try:
        yield
    except (pickle.UnpicklingError, EOFError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in DAMAGED):
            raise
        raise ValueError(f"{where}: its weights are damaged, or are not plain tensors: {error}") from error
    except OSError as error:
        if error.errno is not None:  # transformers' own errors have no errno
            raise
        raise ValueError(f"{where}: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's report of new and unread tensors, as the ones that matter are checked here."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def check_tokens(model: FeatureLlava, tokenizer: Any, name: str | Path) -> None:
    """Raise ValueError unless tokenizer and model agree on ``<image>``, and every id of the tokenizer has an embedding."""
    image, rows = tokenizer.convert_tokens_to_ids("<image>"), model.get_input_embeddings().num_embeddings
    if image is None or image == tokenizer.unk_token_id:
        raise ValueError(f"{name}: the tokenizer has no token <image>")
    if image != model.config.image_token_id:
        raise ValueError(f"{name}: <image> is {image} to the tokenizer and {model.config.image_token_id} to the model")
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ValueError(f"{name}: the tokenizer knows {largest + 1} ids, the model has {rows} embeddings")


def inject_lora(model: FeatureLlava, r: int, alpha: float, dropout: float, targets: Sequence[str]) -> None:
    """Put LoRA (peft) into layers of the language model, in place.

    The released ELISA names ``q_proj`` and ``v_proj`` alone, which peft also finds in the vision tower.

    Raises:
        ValueError: the language model has no such layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    pattern = rf".*\.({'|'.join(targets)})"
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, bias="none", target_modules=pattern)
    inject_adapter_in_model(config, model.model.language_model)
