"""LISA's mask path: a ``<SEG>`` state prompts SAM's mask decoder (arXiv 2308.00692; dvlab-research/LISA).

SAM's image embedding comes from the store (column ``sam_features/<model>``); SAM's image encoder is never built, and its
tensors are never read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors import safe_open
from segment_anything import modeling
from torch import Tensor, nn
from torch.nn import functional as F

from stages.checkpoints import reading
from stages.encoders.common import State, load_into
from stages.proposers.sam import sam_model
from stages.proposers.sam.two_way import TwoWay
from stages.train.language.seg_states import projection
from stages.transforms import longest_side

Ignore = Literal["background", "excluded"]
Size = tuple[int, int]
"""Height and width, px."""

PROMPT_ENCODER, MASK_DECODER = "prompt_encoder.", "mask_decoder."
"""What SAM's checkpoints call the two parts that are needed here."""
MASK_EPS, DICE_SCALE, DICE_EPS = 1e-8, 1000.0, 1e-6
"""Constants of the released losses: the first is added to the number of masks, the others are used in Dice."""
_PUBLISHED: Mapping[str, Any] = MappingProxyType(
    {"decoder_mlp_dim": 2048, "decoder_heads": 8, "mask_in_chans": 16, "iou_hidden_dim": 256}
)
"""Sizes in ``segment_anything.build_sam``, the same for its three models."""


def new_prompt_encoder(name: str) -> modeling.PromptEncoder:
    """The prompt encoder of the SAM called ``name``, random weights; ValueError for an unknown name."""
    model = sam_model(name)
    sizes = model.vit or _PUBLISHED
    square = (model.image_size, model.image_size)
    return modeling.PromptEncoder(model.embed_dim, (model.grid, model.grid), square, sizes["mask_in_chans"])


def new_mask_decoder(name: str) -> modeling.MaskDecoder:
    """The mask decoder of the SAM called ``name``, random weights; ValueError for an unknown name."""
    model = sam_model(name)
    sizes: Mapping[str, Any] = model.vit or _PUBLISHED
    transformer = modeling.TwoWayTransformer(
        depth=2,
        embedding_dim=model.embed_dim,
        num_heads=sizes["decoder_heads"],
        mlp_dim=sizes["decoder_mlp_dim"],
    )
    return modeling.MaskDecoder(
        transformer_dim=model.embed_dim, transformer=transformer, iou_head_hidden_dim=sizes["iou_hidden_dim"]
    )


def build_mask_decoder(name: str, path: Path, hidden_dim: int) -> MaskDecoder:
    """:class:`MaskDecoder` with the decoder of a SAM checkpoint and a new projection, float32 on the CPU.

    Args:
        name: the SAM model, whose ``sam_features`` will be decoded.
        path: its whole checkpoint, as stage ``masks`` uses it; only the decoder's tensors are read.
        hidden_dim: h of the language model (7B: 4096, 13B: 5120).

    Raises:
        WeightsError: the file cannot be read, or its prompt encoder or mask decoder is not this model's.
    """
    state = _read(path)
    parts = [
        load_into(
            make, {key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)}, str(path), "cpu"
        )
        for prefix, make in (
            (PROMPT_ENCODER, partial(new_prompt_encoder, name)),
            (MASK_DECODER, partial(new_mask_decoder, name)),
        )
    ]
    return MaskDecoder(hidden_dim, *parts)


def _read(path: Path) -> State:
    """The decoder's tensors of a SAM checkpoint, float32. The file is mapped, and the bytes of other tensors are not read."""
    wanted = (PROMPT_ENCODER, MASK_DECODER)
    with reading(path, "SAM checkpoint"):
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found = {key: file.get_tensor(key) for key in file.keys() if key.startswith(wanted)}  # noqa: SIM118
        else:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
            found = {key: tensor.clone() for key, tensor in state.items() if key.startswith(wanted)}
        return {key: tensor.float() for key, tensor in found.items()}


def encoded_size(original: Size, max_side_px: int, square_px: int) -> Size:
    """How much of the square, px, an image fills, for an embedding that stage ``masks`` stored.

    Args:
        original: of the EXIF-oriented image.
        max_side_px: the size that the image was first reduced to; 0: it was not.
        square_px: side of the square that SAM's encoder saw.
    """
    scale = max_side_px / max(original) if max_side_px else 1.0
    if scale < 1.0:
        original = max(1, int(original[0] * scale)), max(1, int(original[1] * scale))
    return longest_side(original, square_px)


def postprocess_masks(logits: Tensor, square_px: int, resized: Size, original: Size) -> Tensor:
    """``Sam.postprocess_masks``, always in float32 (dvlab-research/LISA); one axis after the other, equal except for rounding.

    Args:
        logits: float [n, s, s] over the square; n may be 0.
        square_px: side of the square that SAM's encoder saw.
        resized: how much of the square the image fills (:func:`encoded_size`).
        original: of the image.

    Returns:
        Logits float32 [n, H, W] of the original image.
    """
    wide = _along_rows(_along_rows(logits.float().mT.contiguous(), square_px)[:, : resized[1]], original[1])
    return _along_rows(_along_rows(wide.mT.contiguous(), square_px)[:, : resized[0]], original[0])


def _along_rows(values: Tensor, rows: int) -> Tensor:
    """[n, h, w] -> [n, rows, w], bilinear in one axis.

    The rows are passed to the library as adjacent channels, which it sums one vector at a time. With its gradient this is about
    four times as fast on a CPU as masks of one channel with both axes at once.
    """
    channels_last = values[:, :, None].permute(0, 3, 1, 2)
    return F.interpolate(channels_last, (rows, 1), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)[:, :, 0]


class MaskDecoder(nn.Module):
    """Masks of ``<SEG>`` states.

    The projection and the mask decoder are trained, as in LISA. The prompt encoder is frozen, and so are the parameters that do
    not affect the mask (:func:`without_effect`): no gradient would reach these, and DistributedDataParallel would wait for one.

    Args:
        hidden_dim: h of the language model.
        prompt_encoder, mask_decoder: segment_anything's.
    """

    def __init__(
        self, hidden_dim: int, prompt_encoder: modeling.PromptEncoder, mask_decoder: modeling.MaskDecoder
    ) -> None:
        super().__init__()
        self.prompt_encoder = prompt_encoder.requires_grad_(False)
        self.mask_decoder = mask_decoder.requires_grad_(True)
        for weight in without_effect(self.mask_decoder):
            weight.requires_grad_(False)
        self.text_hidden_fcs = projection(hidden_dim, self.prompt_encoder.embed_dim)

    def decode(self, states: Tensor, owner: Tensor, features: Tensor) -> Tensor:
        """Logits over the square, at SAM's low resolution, as segment_anything's decoder has them: float32 [N, 4 h, 4 w].

        Args:
            states: float [N, hidden_dim] of ``<SEG>``; N may be 0.
            owner: int64 [N], the image of each, in order.
            features: float [B, C, h, w], SAM's image embeddings as stored.

        Raises:
            ValueError: the embeddings do not have the form of this SAM's.
        """
        expected = (self.prompt_encoder.embed_dim, *self.prompt_encoder.image_embedding_size)
        if features.shape[1:] != expected:
            raise ValueError(
                f"SAM embeddings of shape {tuple(features.shape[1:])}, expected {expected}: name the SAM model that "
                "made the column sam_features"
            )
        dtype = next(self.text_hidden_fcs.parameters()).dtype
        count = len(states)
        if not count:  # add a state that is thrown away, so that every parameter has a gradient (of zero) in every step
            states, owner = states.new_zeros(1, states.shape[1]), owner.new_zeros(1)
        prompts = self.text_hidden_fcs(states.to(dtype))[:, None]
        with torch.autocast(features.device.type, enabled=False):  # positions are sines of 2 pi x: 16 bit is too few
            two_way = TwoWay(self.prompt_encoder, self.mask_decoder)
            queries, keys = two_way.transform(two_way.keys(features)[owner], prompts.float())
            hyper = self.mask_decoder.output_hypernetworks_mlps[0](queries[:, 1])  # of the single mask's token
            return two_way.masks(hyper[:, None], keys)[:count, 0]

    def forward(
        self, states: Tensor, owner: Tensor, features: Tensor, sizes: Sequence[tuple[Size, Size]]
    ) -> list[Tensor]:
        """Logits float32 [n, H, W] of every image, at its original size; n is the number of its states. Values above 0 are mask.

        Args:
            states, owner, features: as :meth:`decode`.
            sizes: for every image, how much of the square it fills (:func:`encoded_size`) and its original size.
        """
        if len(sizes) != len(features):
            raise ValueError(f"sizes of {len(sizes)} images for SAM embeddings of {len(features)}")
        if bool((owner.diff() < 0).any()):
            raise ValueError(
                f"states of the images {owner.tolist()}: expected them image by image, as seg_states has them"
            )
        logits, square = self.decode(states, owner, features), self.prompt_encoder.input_image_size[0]
        parts = logits.split(torch.bincount(owner, minlength=len(sizes)).tolist())
        return [postprocess_masks(part, square, *size) for part, size in zip(parts, sizes, strict=True)]


def without_effect(decoder: modeling.MaskDecoder) -> Iterator[nn.Parameter]:
    """Parameters that do not affect the single mask.

    The IoU head, the heads of the three masks of ``multimask_output``, and biases of keys made from image tokens: such a bias
    adds the same to all scores that a softmax compares.
    """
    for head in (decoder.iou_prediction_head, *decoder.output_hypernetworks_mlps[1:]):
        yield from head.parameters()
    for layer in decoder.transformer.layers:
        yield layer.cross_attn_token_to_image.k_proj.bias
    yield decoder.transformer.final_attn_token_to_image.k_proj.bias


def mask_losses(
    logits: Sequence[Tensor],
    targets: Sequence[Tensor],
    ignored: Sequence[Tensor],
    ignore: Ignore,
    bce_weight: float = 2.0,
    dice_weight: float = 0.5,
) -> dict[str, Tensor]:
    """``mask_bce_loss`` and ``mask_dice_loss``, weighted, 0-d: each the sum over all masks of the batch, divided by their number.

    Args:
        logits: of every image float [n, H, W]; n may be 0.
        targets: of every image bool [n, H, W].
        ignored: of every image bool [H, W], pixels that do not count.
        ignore: "excluded" leaves them out of both losses. "background", as released: they count as pixels outside the target.

    Raises:
        ValueError: unknown ``ignore``, or shapes that do not agree.
    """
    if ignore not in ("background", "excluded"):
        raise ValueError(f"ignore {ignore!r}: expected background or excluded")
    bce, dice = [], []
    for predicted, target, unknown in zip(logits, targets, ignored, strict=True):
        if not predicted.shape == target.shape == (len(predicted), *unknown.shape):
            found = ", ".join(str(tuple(values.shape)) for values in (predicted, target, unknown))
            raise ValueError(f"logits, targets and ignored pixels are {found}: expected [n, H, W] twice, and [H, W]")
        pixels, truth = predicted.flatten(1).float(), target.flatten(1)
        if bool(unknown.any()):  # rarely
            known = ~unknown.flatten()
            pixels, truth = (pixels, truth & known) if ignore == "background" else (pixels[:, known], truth[:, known])
        bce.append(_bce(pixels, truth.float()))
        dice.append(_dice(pixels, truth.float()))
    masks = sum(map(len, bce)) + MASK_EPS
    return {
        "mask_bce_loss": bce_weight * torch.cat(bce).sum() / masks,
        "mask_dice_loss": dice_weight * torch.cat(dice).sum() / masks,
    }


def _bce(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean over the pixels, [n]; 0 without pixels."""
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(1) / max(1, logits.shape[1])


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    """``dice_loss`` of dvlab-research/LISA, [n]."""
    inside = logits.sigmoid()
    both, areas = (inside * truth).sum(1), inside.sum(1) + truth.sum(1)
    return 1 - (2 * both / DICE_SCALE + DICE_EPS) / (areas / DICE_SCALE + DICE_EPS)
