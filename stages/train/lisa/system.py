"""LISA over the store: a ``[SEG]`` state prompts SAM's mask decoder on the stored image embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.proposers.sam import features_column, sam_model
from stages.train.language.vision import feature_tokens
from stages.train.lisa.decoder import Size, build_mask_decoder, encoded_size, mask_losses, postprocess_masks
from stages.train.params import LisaParams, TrainParams
from stages.train.seg import Found, SegSystem
from stages.train.system import Batch, dense, dense_names, sizes_of
from store import rle
from store.split import Split


class Lisa(SegSystem):
    """A :class:`stages.train.system.System`.

    Args:
        checkpoint: file of the SAM whose embeddings are stored.
    """

    own: LisaParams

    def __init__(self, params: TrainParams, checkpoint: Path, tokens: int, device: str) -> None:
        super().__init__(params, params.lisa, tokens, device)
        self.decoder = build_mask_decoder(self.own.sam_model, checkpoint, self.model.config.text_config.hidden_size)
        self.attach("mask_decoder", self.decoder)

    @classmethod
    def build(cls, params: TrainParams, split: Split, device: str, weights: Callable[[str], Path]) -> Lisa:
        """Make the system with SAM's decoder and a new projection."""
        checkpoint = weights(sam_model(params.lisa.sam_model).weights)
        return cls(params, checkpoint, feature_tokens(params, split), device)

    @staticmethod
    def columns(params: TrainParams, training: bool) -> dict[str, str]:
        """Keys of a batch -> what is read."""
        names = {
            **SegSystem.shared_columns(params, params.lisa, training),
            **dense_names("sam", features_column(params.lisa.sam_model), params.dense),
        }
        if not training:
            return names
        truth = "instances.segmentation" if params.lisa.one_per == "instance" else "targets.segmentation"
        return {**names, "truth": truth, "ignore": "targets.ignore"}

    @staticmethod
    def candidates(params: TrainParams, training: bool) -> None:
        """Empty, as LISA does not choose among masks."""

    def wanted(self, batch: Batch, instances: Sequence[Sequence[int]]) -> dict[str, Any]:
        """``sam`` [B, C, h, w], ``sizes``, of every image ``targets`` bool [n, H, W] and ``ignored`` bool [H, W], at its size."""
        sizes, targets, ignored = self.sizes(batch), [], []
        for number, numbers in enumerate(instances):
            _, (height, width) = sizes[number]
            truth = batch["truth"][number]
            masks = [truth[j] for j in numbers] if self.own.one_per == "instance" else [truth][: len(numbers)]
            found = np.zeros((len(masks), height, width), bool)
            for row, counts in enumerate(masks):
                found[row] = rle.decode(counts, height, width)
            targets.append(torch.from_numpy(found))
            ignored.append(torch.from_numpy(rle.decode(batch["ignore"][number], height, width)))
        return {"sam": dense(batch, "sam", -3), "sizes": sizes, "targets": targets, "ignored": ignored}

    def sizes(self, batch: Batch) -> list[tuple[Size, Size]]:
        """How much of SAM's square each image fills, and its original size."""
        # sam_features are computed from the full-size image, even if a proposer reduces it
        return [(encoded_size(size, 0, self._square), size) for size in sizes_of(batch)]

    @property
    def _square(self) -> int:
        return sam_model(self.own.sam_model).image_size

    def mask_loss(self, inputs: Mapping[str, Any], states: Tensor, owner: Tensor) -> Tensor:
        """BCE and Dice at the original resolution, weighted."""
        logits = self.decoder(states, owner, inputs["sam"], inputs["sizes"])
        losses = mask_losses(
            logits, inputs["targets"], inputs["ignored"], self.own.ignore, self.own.bce_weight, self.own.dice_weight
        )
        return torch.stack([*losses.values()]).sum()

    def masks(self, batch: Batch, states: Tensor, owner: Tensor) -> list[Found]:
        """The union of the masks of a sample's states, at its original size."""
        logits = self.decoder.decode(states, owner, dense(batch, "sam", -3).to(self.device))
        found: list[Found] = []
        for number, size in enumerate(self.sizes(batch)):
            mask = torch.zeros(size[1], dtype=torch.bool, device=logits.device)
            for one in logits[owner == number]:  # one by one: an answer may name many masks, and the image may be large
                mask |= postprocess_masks(one[None], self._square, *size)[0] > 0
            found.append((rle.encode(mask.cpu().numpy()) if bool(mask.any()) else None, None))
        return found
