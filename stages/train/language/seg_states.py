"""States of ``<SEG>`` and how they leave the language model; LISA and LLM-Seg have both in common."""

from __future__ import annotations

from torch import Tensor, nn


def seg_states(hidden: Tensor, input_ids: Tensor, seg_id: int) -> tuple[Tensor, Tensor]:
    """The hidden state that predicts each ``<SEG>``: of the token *before* it, as released code has it.

    The papers speak of the embedding of the ``<SEG>`` token itself; dvlab-research/LISA and wangjunchi/LLMSeg shift by one. A
    ``<SEG>`` that no token precedes was predicted by nothing and has no state. Padding may be on either side.

    Args:
        hidden: float [B, L, h], the language model's last layer, a state for every token of ``input_ids``.
        input_ids: int64 [B, L], with ``<image>`` already as many tokens as there are features.
        seg_id: id of ``<SEG>``.

    Returns:
        states float [N, h], in order of sample and position, and owner int64 [N], their samples.

    Raises:
        ValueError: ``hidden`` and ``input_ids`` are not of one batch and length.
    """
    if hidden.shape[:2] != input_ids.shape:
        raise ValueError(
            f"hidden states of {tuple(hidden.shape[:2])} tokens for input ids {tuple(input_ids.shape)}: expected a state "
            "for every id; widen <image> to the image's tokens first"
        )
    owner, before = (input_ids[:, 1:] == seg_id).nonzero(as_tuple=True)
    return hidden[owner, before], owner


def projection(dim_in: int, dim_out: int) -> nn.Sequential:
    """``text_hidden_fcs`` of both systems: states float [..., dim_in] -> [..., dim_out] (dvlab-research/LISA)."""
    return nn.Sequential(nn.Linear(dim_in, dim_in), nn.ReLU(), nn.Linear(dim_in, dim_out), nn.Dropout(0.0))
