"""A LLaVA with an extended vocabulary: learned words for all samples, and a word for each of a sample's own masks.

Rows A follow the language model's embeddings E: ``inputs = [E; A][ids]`` and ``logits = h [E; A]^T``, with A computed under
ordinary autograd and nothing resized or copied. ELISA (DavidC001/ELISA) numbers the masks of a whole batch and multiplies the
logits of other samples' masks by zero, which leaves them in the softmax; here a sample sees only its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaConfig, LogitsProcessor, initialization
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from stages.train.language.adapter import AdapterSizes, MaskAdapter, QueryBlock
from stages.train.language.llava import IGNORED, FeatureLlava


class NamedOnce(LogitsProcessor):  # type: ignore[misc]
    """Keeps an answer from naming a mask twice, as the answer is a set.

    Args:
        begun: number of tokens of the prompt; earlier positions do not count.
        first_mask: id of mask 0.
    """

    def __init__(self, begun: int, first_mask: int) -> None:
        self.begun, self.first_mask = begun, first_mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores float [B, N] for what follows ``input_ids`` int64 [B, L]."""
        row, position = (input_ids[:, self.begun :] >= self.first_mask).nonzero(as_tuple=True)
        left = scores.clone()
        left[row, input_ids[row, self.begun + position]] = -torch.inf
        return left


class ExtendedLlava(FeatureLlava):
    """Ids from ``first_row`` on: the words of ``config.words`` in order, then mask 0, 1, ... of the sample.

    ``config.words`` (tuple of str) names the learned words, e.g. ``[REJ]``; ``config.adapter`` (a dict, or None) turns mask
    embeddings into words (:class:`stages.train.language.adapter.AdapterSizes`).
    """

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__(config)
        width = config.text_config.hidden_size
        self.words = nn.Parameter(torch.empty(len(getattr(config, "words", ())), width))
        sizes = getattr(config, "adapter", None)
        self.adapter = MaskAdapter(AdapterSizes(**sizes), width) if sizes else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise parameters that the checkpoint lacks; transformers leaves such tensors uninitialised."""
        super()._init_weights(module)
        if module is self:
            initialization.normal_(self.words, std=self.config.text_config.initializer_range)
        elif isinstance(module, MaskAdapter):
            initialization.ones_(module.std_emb)
            initialization.zeros_(module.mean_emb)
        elif isinstance(module, QueryBlock):
            initialization.normal_(module.queries)

    @property
    def first_row(self) -> int:
        """Id of the first word after the language model's own."""
        return int(self.config.text_config.vocab_size)

    @property
    def first_mask(self) -> int:
        """Id of mask 0."""
        return self.first_row + len(self.words)

    def word_id(self, word: str) -> int:
        """Id of one of ``config.words``."""
        return self.first_row + list(self.config.words).index(word)

    @torch.no_grad()
    def start_words_like(self, ids: dict[str, list[int]]) -> None:
        """Start each learned word at the mean embedding of some tokens, so that few steps are enough to learn it."""
        embeddings = self.get_input_embeddings().weight
        for word, tokens in ids.items():
            self.words[list(self.config.words).index(word)] = embeddings[tokens].mean(0).to(self.words.dtype)

    def rows(self, masks: Tensor | None, batch: int) -> Tensor:
        """The rows A, float [B, W + K, h], of mask embeddings float [B, K, D]."""
        words = self.words.expand(batch, -1, -1)
        if masks is None or self.adapter is None:
            return words
        return torch.cat([words, self.adapter(masks.to(words.dtype))], dim=1)

    def embed(self, input_ids: Tensor, rows: Tensor) -> Tensor:
        """Embeddings float [B, L, h] of ids of either kind."""
        table = self.get_input_embeddings()
        own = input_ids >= self.first_row
        embedded = table(torch.where(own, 0, input_ids))
        if not rows.shape[1]:
            return embedded  # type: ignore[no-any-return]
        number = (input_ids - self.first_row).clamp(min=0)
        picked = rows.gather(1, number[..., None].expand(-1, -1, rows.shape[-1])) * getattr(
            table, "scalar_embed_scale", 1.0
        )
        return torch.where(own[..., None], picked.to(embedded.dtype), embedded)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        masks: Tensor | None = None,
        masks_valid: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        loss_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast:
        """Like LLaVA's ``forward``.

        Args:
            input_ids: int64 [B, L].
            pixel_values: patch features float [B, P, C].
            masks: mask embeddings float [B, K, D]; masks_valid bool [B, K] says which are there.
            labels: int64 [B, L] with ids of both kinds; :data:`stages.train.language.llava.IGNORED` for tokens that the loss skips.
            loss_options: of :func:`token_loss`.

        Returns:
            The last hidden state [B, L, h] as the one entry of ``hidden_states``; with ``labels`` the loss, else logits
            [B, L, V + W + K], minus infinity for masks that are not there.
        """
        assert input_ids is not None
        rows = self.rows(masks, len(input_ids))
        embedded = self.embed(input_ids, rows)
        image = input_ids == self.config.image_token_id
        if pixel_values is not None and bool(image.any()):
            features = torch.cat(self.model.get_image_features(pixel_values).pooler_output)
            if len(features) != int(image.sum()):
                raise ValueError(f"found {int(image.sum())} <image> tokens and {len(features)} features")
            embedded = embedded.masked_scatter(image[..., None], features.to(embedded.dtype))
        outputs = self.model.language_model(
            inputs_embeds=embedded,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,  # in training no later step would use it
        )
        hidden = outputs.last_hidden_state
        loss = logits = None
        if labels is None:
            kept = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
            every = torch.arange(len(kept), device=kept.device)[:, None].expand(kept.shape[:2])
            logits = self.scores(kept.flatten(0, 1), every.flatten(), rows, masks_valid).unflatten(0, kept.shape[:2])
        else:  # only for the answers: they are a small part of a sequence, and a row of logits is as long as the vocabulary
            said = labels[:, 1:] != IGNORED
            owner, place = torch.nonzero(said, as_tuple=True)
            scores = self.scores(hidden[owner, place], owner, rows, masks_valid)
            positions = len(said) * int(said.sum(dim=1).max())
            loss = token_loss(scores, labels[owner, place + 1], positions, self.first_row, **(loss_options or {}))
        return LlavaCausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=outputs.past_key_values, hidden_states=(hidden,)
        )

    def scores(self, hidden: Tensor, owner: Tensor, rows: Tensor, masks_valid: Tensor | None) -> Tensor:
        """Logits float [n, V + W + K] of states [n, h] that belong to the samples ``owner`` int64 [n], in their order."""
        counts = torch.bincount(owner, minlength=len(rows)).tolist()
        own = torch.cat([part @ row.to(part.dtype).T for part, row in zip(hidden.split(counts), rows, strict=True)])
        if masks_valid is not None and rows.shape[1] > len(self.words):
            there = F.pad(masks_valid, (len(self.words), 0), value=True)
            own = own.masked_fill(~there[owner], float("-inf"))
        return torch.cat([self.lm_head(hidden), own], dim=-1)


def token_loss(
    logits: Tensor,
    wanted: Tensor,
    positions: int,
    first_row: int,
    temperature: float = 1.0,
    row_weight: float = 1.0,
    over: str = "labels",
) -> Tensor:
    """Cross entropy of ``logits / temperature`` [n, N] with ``wanted`` int64 [n].

    Args:
        positions: B times A of the batch that the n tokens come from; A: tokens of its longest answer.
        first_row: labels from here on count ``row_weight`` times (ELISA: 2).
        over: ``labels`` averages over the labelled tokens; ``positions`` divides by B times A, as ELISA's released code does
            (DavidC001/LISA_ACV, ``llava_finetune/model.py``: logits of the answers alone, answers padded to the longest), so
            that padding of a shorter answer makes the loss smaller.

    Raises:
        ValueError: a label has a logit of minus infinity, i.e. it is a mask that does not exist.
    """
    losses = F.cross_entropy(logits.float() / temperature, wanted, reduction="none")
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("the loss is not finite: a label is a mask that is not there, or the logits have overflowed")
    factors = torch.where(wanted >= first_row, row_weight, 1.0)
    total = max(1, positions) if over == "positions" else factors.sum().clamp(min=1e-9)
    return (losses * factors).sum() / total
