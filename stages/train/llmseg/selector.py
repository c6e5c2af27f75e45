"""LLM-Seg's mask selection: a ``<SEG>`` state chooses among SAM's proposals (arXiv 2404.08767; wangjunchi/LLMSeg).

The names of modules are those of the released code without ``lisa_``, except for ``mask_fc`` (its ``dino_conv``) and ``iop_head``
(its ``iou_head``, which regresses IoP). K is the number of masks per image in a batch, padded; C the number of ``<SEG>`` states,
which the paper calls conversations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train.language.seg_states import projection

Heads = Literal["both", "iou", "iop"]

TAU = 0.05
"""Temperature of both distributions in :func:`align_loss`."""
REGRESSION_SCALE = 50.0
"""Factor in :func:`regression_loss`: the released code's number of proposals per image."""
TOP = 5
"""Masks that ``top5_and_iop`` looks at."""


@dataclass(frozen=True)
class Scores:
    """What the heads say of the masks of each state's image.

    similarity: float32 [C, K], cosine in [-1, 1]; None without that head. iop: float32 [C, K] in [0, 1]; None likewise.
    valid: bool [C, K]; elsewhere the heads' output has no meaning.
    """

    similarity: Tensor | None
    iop: Tensor | None
    valid: Tensor


def align_loss(similarity: Tensor, iou: Tensor, valid: Tensor, tau: float = TAU) -> Tensor:
    """KL(target || predicted) of softmax(iou / tau) and softmax(similarity / tau) over the valid masks: float32 [C].

    The sum over masks, as released; the paper writes the arguments the other way round. All arguments but ``tau`` are
    [C, K]; a row without masks gives 0.
    """
    padding = torch.finfo(torch.float32).min  # a finite value: with minus infinity, padding would give NaN instead of 0
    predicted, target = ((values.float() / tau).masked_fill(~valid, padding) for values in (similarity, iou))
    return F.kl_div(predicted.log_softmax(-1), target.softmax(-1), reduction="none").sum(-1)


def regression_loss(predicted: Tensor, iop: Tensor, valid: Tensor) -> Tensor:
    """50 mean_k[e^(iop - 1) (predicted - iop)^2] over the valid masks: float32 [C]; a row without masks gives 0.

    All arguments are [C, K].
    """
    squares = (iop.float() - 1).exp() * (predicted.float() - iop.float()).square()
    return REGRESSION_SCALE * squares.masked_fill(~valid, 0.0).sum(-1) / valid.sum(-1).clamp(min=1)


def mean_over_images(losses: Tensor, owner: Tensor) -> Tensor:
    """The mean over each image's states, then over the images that have a state: 0-d; 0 without a state.

    Args:
        losses: float [C].
        owner: int64 [C], the image of each.
    """
    _, group, counts = owner.unique(return_inverse=True, return_counts=True)
    found: Tensor = (losses / counts[group]).sum() / max(len(counts), 1)
    return found


def selection_losses(scores: Scores, iou: Tensor, iop: Tensor, owner: Tensor, tau: float = TAU) -> dict[str, Tensor]:
    """``align_loss`` and ``regression_loss``, each 0-d, weight 1 in the released code; only those whose head exists.

    Args:
        iou, iop: float [C, K], of every mask with the target of every state (table ``match/targets``).
        owner: int64 [C], the image of each state.
        tau: as :func:`align_loss`.
    """
    losses = {}
    if scores.similarity is not None:
        losses["align_loss"] = mean_over_images(align_loss(scores.similarity, iou, scores.valid, tau), owner)
    if scores.iop is not None:
        losses["regression_loss"] = mean_over_images(regression_loss(scores.iop, iop, scores.valid), owner)
    return losses


def top(scores: Scores, count: int) -> Tensor:
    """The ``count`` most similar valid masks, or as many as there are: bool [C, K].

    Among equally similar ones the first, which is the larger mask.
    """
    if scores.similarity is None:
        raise ValueError("this model has no similarity head: train with heads both or iou, or select by iop")
    similarity = scores.similarity.masked_fill(~scores.valid, -torch.inf)
    best = similarity.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(scores.valid).scatter(-1, best, value=True) & scores.valid


def above(scores: Scores, threshold: float) -> Tensor:
    """The valid masks whose predicted IoP is larger than ``threshold``: bool [C, K]."""
    if scores.iop is None:
        raise ValueError("this model has no IoP head: train with heads both or iop, or select by top1")
    return (scores.iop > threshold) & scores.valid


STRATEGIES: Mapping[str, Callable[[Scores, float], Tensor]] = MappingProxyType(
    {
        "top1": lambda scores, threshold: top(scores, 1),
        "iop": above,
        "top1_or_iop": lambda scores, threshold: top(scores, 1) | above(scores, threshold),
        "top5_and_iop": lambda scores, threshold: top(scores, TOP) & above(scores, threshold),
    }
)
"""Table 3 of the paper; the released code's default is ``iop``."""


def select(scores: Scores, strategy: str, threshold: float = 0.5) -> Tensor:
    """Masks whose union answers each state: bool [C, K]; a row may be empty.

    Raises ValueError for an unknown strategy, or one that needs a head the model lacks.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"no strategy is called {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy](scores, threshold)


class Attention(nn.Module):
    """segment_anything's ``Attention`` (downsample_rate 1) with keys that may be padding."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} does not divide dim {dim}")
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
        """[C, Q, dim] from q [C, Q, dim] and k, v [C, N, dim]; ``allowed`` bool [C, N] says which keys are not padding.

        Where no key is allowed, the result is a number without meaning.
        """
        query, key, value = (
            part(values).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part, values in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        if allowed is not None:  # a finite value: with minus infinity, a row without allowed keys would be NaN
            scores = scores.masked_fill(~allowed[:, None, None], torch.finfo(scores.dtype).min)
        seen = scores.softmax(-1).to(value.dtype) @ value
        found: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return found


class TwoWayBlock(nn.Module):
    """``LISA_TwoWayAttentionBlock``: SAM's two-way block without positional encodings, normalised after each residual."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(dim, num_heads)
        self.cross_attn_token_to_image = Attention(dim, num_heads)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.cross_attn_image_to_token = Attention(dim, num_heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))

    def forward(self, masks: Tensor, text: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """masks [C, K, dim], where bool ``valid`` [C, K] says which exist, and text [C, T, dim]: both updated.

        The masks take the place of SAM's tokens and the text that of its image, which explains the names of the modules.
        """
        masks = self.norm1(masks + self.self_attn(masks, masks, masks, valid))
        masks = self.norm2(masks + self.cross_attn_token_to_image(masks, text, text))
        masks = self.norm3(masks + self.mlp(masks))
        return masks, self.norm4(text + self.cross_attn_image_to_token(text, masks, masks, valid))


class Fusion(nn.Module):
    """Masks and text attend to each other. With a single text token, attention from masks to text is a linear map of that token."""

    def __init__(self, dim: int, num_heads: int, depth: int, mlp_dim: int) -> None:
        super().__init__()
        self.attention_layers = nn.ModuleList(TwoWayBlock(dim, num_heads, mlp_dim) for _ in range(depth))
        self.final_attn = Attention(dim, num_heads)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, masks: Tensor, text: Tensor, valid: Tensor) -> Tensor:
        """The masks [C, K, dim], updated; arguments as :meth:`TwoWayBlock.forward`."""
        for layer in self.attention_layers:
            masks, text = layer(masks, text, valid)
        found: Tensor = self.norm_final_attn(masks + self.final_attn(masks, text, text))
        return found


class MaskSelector(nn.Module):
    """Scores of an image's masks for each of its ``<SEG>`` states.

    Args:
        mask_dim: D of the stored mask vectors (DINOv2 ViT-L/14: 1024).
        hidden_dim: h of the language model (7B: 4096).
        dim, num_heads, depth, mlp_dim: of the fusion; 256, 8, 2 and 2048 are the released code's. The heads' layers are
            ``mlp_dim`` and ``dim / 2`` wide, as in the code; the paper says [256, 64, 1].
        heads: "both", or one of them (Table 2).
        fusion: False leaves the fusion out (Table 2). The IoP head then does not see the question.

    Raises:
        ValueError: unknown ``heads``, or ``iop`` alone without a fusion, which would never see the question.
    """

    def __init__(
        self,
        mask_dim: int,
        hidden_dim: int,
        *,
        dim: int = 256,
        num_heads: int = 8,
        depth: int = 2,
        mlp_dim: int = 2048,
        heads: Heads = "both",
        fusion: bool = True,
    ) -> None:
        super().__init__()
        if heads not in ("both", "iou", "iop"):
            raise ValueError(f"heads {heads!r}: expected both, iou or iop")
        if heads == "iop" and not fusion:
            raise ValueError(
                "heads iop without fusion never sees the question: expected fusion, or another choice of heads"
            )
        self.mask_fc = nn.Linear(mask_dim, dim)
        self.text_hidden_fcs = projection(hidden_dim, dim)
        self.fusion = Fusion(dim, num_heads, depth, mlp_dim) if fusion else None
        self.embedding_head, self.iop_head = None, None
        if heads != "iop":
            self.embedding_head = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        if heads != "iou":
            self.iop_head = nn.Sequential(nn.Linear(dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, 1), nn.Sigmoid())

    def forward(self, masks: Tensor, valid: Tensor, states: Tensor, owner: Tensor) -> Scores:
        """Score the masks.

        Args:
            masks: float [B, K, D], pooled mask vectors as stored; K may be 0, and so may the number of masks of one image.
            valid: bool [B, K], False for padding, whose values do not matter.
            states: float [C, h] of ``<SEG>``; C may be 0.
            owner: int64 [C], the image of each state.
        """
        dtype = self.mask_fc.weight.dtype
        masks = masks.masked_fill(~valid[..., None], 0.0)
        embeds = self.mask_fc(masks.to(dtype))
        # An empty mask pools to zeros, also after the released code's convolution, whose bias is pooled with the features.
        embeds = embeds.masked_fill(~masks.any(-1, keepdim=True), 0.0)[owner]
        valid, text = valid[owner], self.text_hidden_fcs(states.to(dtype))
        if self.fusion is not None:
            embeds = self.fusion(embeds, text[:, None], valid)
        similarity = iop = None
        if self.embedding_head is not None:
            # The similarity uses the text as it was before the fusion.
            similarity = F.cosine_similarity(self.embedding_head(embeds).float(), text[:, None].float(), dim=-1)
        if self.iop_head is not None:
            iop = self.iop_head(embeds).float().squeeze(-1)
        return Scores(similarity, iop, valid)
