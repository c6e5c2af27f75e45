"""The tokenizer of a LLaVA, as in the code that trained it, and the words around an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import AddedToken, AutoTokenizer, LlamaTokenizer
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

IMAGE, IM_START, IM_END, IM_PATCH = "<image>", "<im_start>", "<im_end>", "<im_patch>"
"""Where the features of the image go, and haotian-liu/LLaVA's words around and for them."""
_WRAPS = "mm_use_im_start_end"


def load_tokenizer(name: str, text_model: str, released: bool) -> Any:
    """The tokenizer of a folder, or of a model on the hub.

    From ``tokenizer.model`` alone transformers 5 would make a tokenizer that does not start a text with a space. So Llama's is
    asked for by name, with a space after special tokens too (``legacy``), like the slow tokenizer that LLaVA v1, LISA and
    LLM-Seg used.

    Args:
        text_model: ``model_type`` of the language model.
        released: the folder has haotian-liu/LLaVA's form, whose tokenizer is ``tokenizer.model``, whatever other files exist.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        slow = text_model in ("llama", "mistral") and _has(name, "tokenizer.model")
        if slow and (released or not _has(name, "tokenizer.json")):
            legacy = get_tokenizer_config(name).get("legacy")
            return usable(LlamaTokenizer.from_pretrained(name, legacy=legacy is not False))
        return usable(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
    except OSError as error:
        if error.errno is not None:  # an error of disk or network; transformers' own errors have no errno
            raise
        raise ValueError(f"{name}: found no tokenizer that can be read: {error}") from error
    except Exception as error:  # anything wrong with a file: tokenizers has no error class of its own
        raise ValueError(f"{name}: found no tokenizer that can be read: {error}") from error


def _has(name: str, file: str) -> bool:
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None


def usable(tokenizer: Any) -> Any:
    """The tokenizer with a token for padding (LISA's: the unknown one), and without a chat template that leaves out the text.

    Processors' templates (llava-hf) expect a text as a list of parts, and render a plain text as nothing.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if tokenizer.chat_template:
        said = [{"role": "user", "content": f"{IMAGE}\nquestion"}, {"role": "assistant", "content": "answer"}]
        try:
            text = tokenizer.apply_chat_template(said, tokenize=False)
        except (TemplateError, TypeError):
            text = ""
        if not all(word in text for word in (IMAGE, "question", "answer")):
            tokenizer.chat_template = None
    return tokenizer


def add_image_words(tokenizer: Any, config: Mapping[str, Any], rows: int, name: str) -> None:
    """Give the tokenizer of a folder in haotian-liu/LLaVA's form its words for an image, as ``load_pretrained_model`` there does.

    With the slow tokenizers of that time white space next to such a word was lost, which a model knows from its training.

    Args:
        config: ``config.json``.
        rows: embeddings of the model.

    Raises:
        ValueError: the model has no embeddings for the words that it was trained with.
    """
    wraps = bool(config.get(_WRAPS, wraps_image(tokenizer)))
    tokenizer.init_kwargs[_WRAPS] = wraps
    if wraps:
        words = [*([IM_PATCH] if config.get("mm_use_im_patch_token", True) else []), IM_START, IM_END]
        tokenizer.add_tokens([_stripping(word) for word in words], special_tokens=True)
        if (last := max(tokenizer.convert_tokens_to_ids(words))) >= rows:
            raise ValueError(f"{name}: {_WRAPS} is true, but {words[-1]} is {last} and the model has {rows} embeddings")
    tokenizer.add_tokens([IMAGE], special_tokens=True)  # represented there by a number that is not a token


def _stripping(word: str) -> AddedToken:
    return AddedToken(word, lstrip=True, rstrip=True, special=True, normalized=False)


def wraps_image(tokenizer: Any) -> bool:
    """Whether ``<image>`` stands between ``<im_start>`` and ``<im_end>``: both are known, and config.json does not deny it."""
    ids = tokenizer.convert_tokens_to_ids([IM_START, IM_END])
    known = not {None, tokenizer.unk_token_id} & set(ids)
    return known and bool(tokenizer.init_kwargs.get(_WRAPS, True))
