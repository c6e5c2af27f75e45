"""CLIP's text tower (arXiv 2103.00020) on open_clip's modules, in the sizes of a checkpoint's tensors, and CLIP's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from torch import nn
from torch.nn import functional as F

from stages.checkpoints import WeightsError
from stages.encoders import Vectors
from stages.encoders.common import State, load_into

HEAD = 64
"""Width of an attention head, in OpenAI's and LAION's models alike."""
_KEYS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


@cache
def tokenizer() -> SimpleTokenizer:
    """CLIP's tokenizer: lower case, byte pairs."""
    return SimpleTokenizer()


def make_text(
    vocabulary: int, context: int, width: int, layers: int, dim: int, act: type[nn.Module]
) -> TextTransformer:
    """The architecture, randomly initialised except for the causal mask, which :func:`with_causal_mask` adds."""
    return TextTransformer(
        context, vocabulary, width, width // HEAD, layers, output_dim=dim, act_layer=act, no_causal_mask=True
    )


def with_causal_mask(model: TextTransformer) -> TextTransformer:
    """The model with its causal mask, so that a token sees only earlier ones. Checkpoints do not contain the mask."""
    model.attn_mask = model.build_causal_mask().to(model.positional_embedding.device)
    return model


def text_embedder(state: State, act: type[nn.Module], dim: int, source: str, device: str) -> Callable[[str], Vectors]:
    """The function that embeds a text: float32 [dim], of length 1.

    Args:
        state: a whole CLIP under OpenAI's keys; those of the text tower are taken.
        source: the name used in errors.

    Raises:
        WeightsError: it has no text tower of this dim.
    """
    own = {key: value for key, value in state.items() if key.startswith(_KEYS)}
    if lacking := [
        key for key in ("token_embedding.weight", "positional_embedding", "text_projection") if key not in own
    ]:
        raise WeightsError(f"{source}: found no text tower of CLIP in it; it lacks {', '.join(lacking)}")
    (vocabulary, width), context = own["token_embedding.weight"].shape, len(own["positional_embedding"])
    layers = len({key.split(".")[2] for key in own if key.startswith("transformer.resblocks.")})
    model = with_causal_mask(
        load_into(lambda: make_text(vocabulary, context, width, layers, dim, act), own, source, device)
    )

    @torch.inference_mode()
    def embed(text: str) -> Vectors:
        tokens = tokens_of(text, context)
        found: Vectors = F.normalize(model(tokens[None].to(device)).float(), dim=-1)[0].cpu().numpy()
        return found

    return embed


def tokens_of(text: str, context: int) -> torch.Tensor:
    """The tokens of a text between those that begin and end it, padded with zeros, int64 [context].

    Raises:
        ValueError: it has no words, more than fit, or holds a control token.
    """
    known = tokenizer()
    tokens = known.encode(text)
    if not tokens:
        raise ValueError(f"text: found no word in {text[:80]!r}, expected what a mask may show, such as: a red mug")
    if any(token in known.all_special_ids for token in tokens):
        raise ValueError(
            f"text: {text[:80]!r} holds <start_of_text> or <end_of_text>, control tokens of CLIP; leave them out"
        )
    if len(tokens) > context - 2:
        raise ValueError(f"text: found {len(tokens)} tokens, expected at most {context - 2}; use fewer words")
    whole = torch.tensor([known.sot_token_id, *tokens, known.eot_token_id])
    return F.pad(whole, (0, context - len(whole)))
