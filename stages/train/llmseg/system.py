"""LLM-Seg over the store: a ``[SEG]`` state chooses among the stored proposals by their stored vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stages.train.language.vision import feature_tokens
from stages.train.llmseg.selector import MaskSelector, select, selection_losses
from stages.train.params import LlmSegParams, TrainParams
from stages.train.places import GEOMETRY, with_places
from stages.train.seg import Found, SegSystem
from stages.train.system import Batch, sizes_of, union_of
from store.split import Split
from store.stream.candidates import Candidates


class LlmSeg(SegSystem):
    """A :class:`stages.train.system.System`.

    Args:
        mask_dim: length of a stored mask vector.
    """

    own: LlmSegParams

    def __init__(self, params: TrainParams, mask_dim: int, tokens: int, device: str) -> None:
        super().__init__(params, params.llmseg, tokens, device)
        sizes = self.own.model_dump(include={"dim", "num_heads", "depth", "mlp_dim", "heads", "fusion"})
        mask_dim += GEOMETRY if self.own.geometry else 0
        self.selector = MaskSelector(mask_dim, self.model.config.text_config.hidden_size, **sizes)
        self.attach("selector", self.selector)

    @classmethod
    def build(cls, params: TrainParams, split: Split, device: str, weights: object) -> LlmSeg:
        """Make the system with new parameters, in the sizes of the split's columns."""
        layout = split.column(cls.columns(params, training=False)["masks"]).meta.array
        assert layout is not None
        return cls(params, layout.row_shape[1], feature_tokens(params, split), device)

    @staticmethod
    def columns(params: TrainParams, training: bool) -> dict[str, str]:
        """Keys of a batch -> what is read."""
        names = {
            **SegSystem.shared_columns(params, params.llmseg, training),
            "masks": f"mask_embeddings/{params.llmseg.mask_encoder}",
            **({"bbox": "masks.bbox"} if params.llmseg.geometry else {}),
        }
        if not training:
            return {**names, "segmentation": "masks.segmentation"}
        table = "match/instances" if params.llmseg.one_per == "instance" else "match/targets"
        return {**names, "iou": f"{table}.iou", "iop": f"{table}.iop"}

    @staticmethod
    def candidates(params: TrainParams, training: bool) -> Candidates:
        """The largest proposals."""
        return Candidates(top_k=params.llmseg.top_k)

    def wanted(self, batch: Batch, instances: Sequence[Sequence[int]]) -> dict[str, Any]:
        """``masks`` [B, K, D] with ``valid`` [B, K], and ``iou`` and ``iop`` float [C, K]: ignored pixels are background."""
        names = ("iou", "iop")
        if self.own.one_per == "target":
            asked = torch.tensor([bool(numbers) for numbers in instances])
            overlaps = {name: batch[name][asked] for name in names}
        else:
            overlaps = {name: _of_instances(batch[name], instances, batch["masks"].shape[1]) for name in names}
        return {"masks": self._vectors(batch), "valid": batch["masks_mask"], **overlaps}

    def _vectors(self, batch: Batch) -> Tensor:
        if not self.own.geometry:
            return batch["masks"]  # type: ignore[no-any-return]
        return with_places(batch["masks"], batch["bbox"], sizes_of(batch))

    def mask_loss(self, inputs: Mapping[str, Any], states: Tensor, owner: Tensor) -> Tensor:
        """The losses of the two heads, weighted."""
        scores = self.selector(inputs["masks"], inputs["valid"], states, owner)
        losses = selection_losses(scores, inputs["iou"], inputs["iop"], owner, self.own.tau)
        weights = {"align_loss": self.own.align_weight, "regression_loss": self.own.regression_weight}
        return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()

    def masks(self, batch: Batch, states: Tensor, owner: Tensor) -> list[Found]:
        """The proposals that at least one of a sample's states chooses."""
        vectors, valid = self._vectors(batch).to(self.device), batch["masks_mask"].to(self.device)
        picked = select(self.selector(vectors, valid, states, owner), self.own.strategy, self.own.threshold)
        found: list[Found] = []
        for number, candidates in enumerate(batch["candidates"].tolist()):
            chosen = torch.nonzero(picked[owner == number].any(0))[:, 0].tolist()
            found.append((union_of(batch, number, chosen), tuple(candidates[k] for k in chosen)))
        return found


def _of_instances(overlaps: Sequence[Any], instances: Sequence[Sequence[int]], most: int) -> Tensor:
    """float32 [C, K], one row per instance, from each sample's overlaps, which are a list with an array [G] per mask."""
    rows = torch.zeros(sum(map(len, instances)), most)
    row = 0
    for of_masks, numbers in zip(overlaps, instances, strict=True):
        for j in numbers:
            rows[row, : len(of_masks)] = torch.tensor([float(of_mask[j]) for of_mask in of_masks])
            row += 1
    return rows
