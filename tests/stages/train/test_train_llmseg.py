from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch.nn import functional as F

from stages.encoders.pooling import mask_weights, pool
from stages.train.llmseg import selector as llmseg
from stages.train.llmseg.selector import MaskSelector, select

SIZES = {"dim": 32, "num_heads": 4, "depth": 2, "mlp_dim": 48}


@pytest.fixture
def selector() -> MaskSelector:
    torch.manual_seed(0)
    return MaskSelector(12, 20, **SIZES).eval()


def batch(seed: int, counts: list[int], conversations: list[int], longest: int) -> tuple[torch.Tensor, ...]:
    """Masks [B, longest, 12], valid, states and their owners; ``counts`` masks and ``conversations`` states an image."""
    random = torch.Generator().manual_seed(seed)
    masks = torch.zeros(len(counts), longest, 12)
    valid = torch.arange(longest) < torch.tensor(counts)[:, None]
    for image, count in enumerate(counts):  # image by image, so that they do not depend on the padding
        masks[image, :count] = torch.randn(count, 12, generator=random)
    states = torch.randn(sum(conversations), 20, generator=random)
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(conversations))
    return masks, valid, states, owner


def released(selector: MaskSelector, masks: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What wangjunchi/LLMSeg computes for one conversation of one image, with segment_anything's own blocks.

    Masks [K, D] without padding and a state [h] -> cosine [K] and IoP [K].
    """
    assert selector.fusion is not None
    assert selector.embedding_head is not None
    assert selector.iop_head is not None
    text = selector.text_hidden_fcs(state)
    queries, keys = selector.mask_fc(masks)[None], text[None, None]
    none = torch.zeros(1)
    for layer in selector.fusion.attention_layers:
        block = TwoWayAttentionBlock(SIZES["dim"], SIZES["num_heads"], SIZES["mlp_dim"], attention_downsample_rate=1)
        block.load_state_dict(layer.state_dict())
        queries, keys = block(queries=queries, keys=keys, query_pe=none, key_pe=none)
    final = Attention(SIZES["dim"], SIZES["num_heads"])
    final.load_state_dict(selector.fusion.final_attn.state_dict())
    queries = selector.fusion.norm_final_attn(queries + final(q=queries, k=keys, v=keys))
    iop = selector.iop_head(queries)[0, :, 0]
    embeds = selector.embedding_head(queries)[0]
    cosine = (text / text.norm()) @ (embeds / embeds.norm(dim=-1, keepdim=True)).T
    return cosine, iop


def test_scores_equal_the_released_computation_conversation_by_conversation(selector: MaskSelector) -> None:
    counts = [6, 1, 4]
    masks, valid, states, owner = batch(1, counts, [2, 1, 3], longest=6)
    scores = selector(masks, valid, states, owner)
    assert scores.similarity is not None
    assert scores.iop is not None
    assert scores.similarity.shape == scores.iop.shape == (6, 6)
    for row, image in enumerate(owner.tolist()):
        count = counts[image]
        assert scores.valid[row].tolist() == [k < count for k in range(6)]
        similarity, iop = released(selector, masks[image, :count], states[row])
        torch.testing.assert_close(scores.similarity[row, :count], similarity, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.iop[row, :count], iop, atol=1e-5, rtol=0)


def test_modules_have_the_released_shapes_at_7b() -> None:
    with torch.device("meta"):
        state = MaskSelector(1024, 4096).state_dict()
    assert state["mask_fc.weight"].shape == (256, 1024)
    assert state["text_hidden_fcs.2.weight"].shape == (256, 4096)
    assert state["fusion.attention_layers.1.mlp.lin1.weight"].shape == (2048, 256)
    assert state["embedding_head.0.weight"].shape == (2048, 256)
    assert state["iop_head.0.weight"].shape == (128, 256)
    assert not any(key.startswith("fusion.attention_layers.2") for key in state)
    assert state["fusion.attention_layers.0.self_attn.q_proj.weight"].shape == (256, 256)
    # a block: 3 attentions of 4 (256^2 + 256), MLP, 4 norms; behind the blocks an attention and its norm
    block = 3 * 4 * (256**2 + 256) + 2 * 256 * 2048 + 2048 + 256 + 4 * 512
    fusion = sum(value.numel() for key, value in state.items() if key.startswith("fusion."))
    assert fusion == 2 * block + 4 * (256**2 + 256) + 512


def test_pooling_commutes_with_the_convolution() -> None:
    torch.manual_seed(3)
    features = torch.randn(12, 8, 8)
    mask = np.zeros((32, 32), bool)
    mask[3:20, 9:27] = True
    weights = mask_weights([mask, np.zeros_like(mask)], mask.shape, 8, "cpu")
    selector = MaskSelector(12, 20, **SIZES, fusion=False)
    convolved = F.conv2d(features[None], selector.mask_fc.weight[:, :, None, None], selector.mask_fc.bias)
    dense = F.interpolate(convolved, (32, 32), mode="bilinear", align_corners=False)[0]
    expected = (dense * torch.from_numpy(mask)).sum((1, 2)) / mask.sum()
    pooled = torch.from_numpy(pool(features, weights))
    torch.testing.assert_close(selector.mask_fc(pooled[0]), expected, atol=1e-5, rtol=0)
    # the released code pools the bias too: of an empty mask nothing is left, and its cosine is 0 / 0
    seen: list[torch.Tensor] = []
    assert selector.embedding_head is not None
    selector.embedding_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    selector(pooled[None], torch.ones(1, 2, dtype=torch.bool), torch.randn(1, 20), torch.tensor([0]))
    torch.testing.assert_close(seen[0][0, 0], expected, atol=1e-5, rtol=0)
    assert not seen[0][0, 1].any()


def test_cross_attention_to_one_text_token_is_a_linear_map_of_it(selector: MaskSelector) -> None:
    assert selector.fusion is not None
    torch.manual_seed(5)
    text = torch.randn(3, 1, 32)
    for part in (selector.fusion.attention_layers[0].cross_attn_token_to_image, selector.fusion.final_attn):
        found = part(torch.randn(3, 9, 32), text, text)
        matrix = part.out_proj.weight @ part.v_proj.weight
        expected = text @ matrix.T + part.out_proj(part.v_proj.bias)
        torch.testing.assert_close(found, expected.expand(3, 9, 32), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(0, 4),
    st.sampled_from([0.0, 1e4, math.nan, math.inf]),
)
def test_padding_changes_nothing(seed: int, counts: list[int], more: int, junk: float) -> None:
    torch.manual_seed(0)
    selector = MaskSelector(12, 20, **SIZES)
    conversations = [1 + image % 2 for image in range(len(counts))]
    results = []
    for longest, filling in ((max(counts), 0.0), (max(counts) + more, junk)):
        masks, valid, states, owner = batch(seed, counts, conversations, longest)
        masks[~valid] = filling
        targets = torch.zeros(2, len(owner), longest)
        targets[:, :, : max(counts)] = torch.rand(2, len(owner), max(counts), generator=torch.manual_seed(seed))
        scores = selector(masks, valid, states, owner)
        losses = llmseg.selection_losses(scores, *targets, owner)
        selector.zero_grad()
        sum(losses.values()).backward()
        gradients = torch.cat([part.grad.flatten() for part in selector.parameters() if part.grad is not None])
        chosen = [select(scores, name)[:, : max(counts)] for name in llmseg.STRATEGIES]
        assert not any((select(scores, name) & ~scores.valid).any() for name in llmseg.STRATEGIES)
        kept = scores.valid[:, : max(counts)]
        scored = [values[:, : max(counts)][kept] for values in (scores.similarity, scores.iop) if values is not None]
        results.append((scored, [*losses.values()], gradients, chosen))
    (scored, losses, gradients, chosen), (scored2, losses2, gradients2, chosen2) = results
    torch.testing.assert_close(scored, scored2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses, losses2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients, gradients2, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip(chosen, chosen2, strict=True))
    assert gradients.isfinite().all()


def test_images_without_masks_and_batches_without_states(selector: MaskSelector) -> None:
    for counts, conversations in (([0, 0], [1, 1]), ([0, 3], [1, 0]), ([2, 3], [0, 0])):
        masks, valid, states, owner = batch(0, counts, conversations, max(counts))
        scores = selector(masks, valid, states.requires_grad_(), owner)
        losses = llmseg.selection_losses(scores, scores.valid.float(), scores.valid.float(), owner)
        assert [value.item() for value in losses.values()] == [0, 0]
        selector.zero_grad()
        sum(losses.values()).backward()
        for name, parameter in selector.named_parameters():
            assert parameter.grad is not None, name  # every rank has a gradient for every parameter
            assert not parameter.grad.any()
        for name in llmseg.STRATEGIES:
            chosen = select(scores, name)
            assert chosen.shape == (len(owner), max(counts))
            assert not chosen.any()


@pytest.mark.parametrize(
    ("heads", "fusion"), [("both", True), ("iou", True), ("iop", True), ("both", False), ("iou", False)]
)
def test_every_ablation_trains_all_that_it_has(heads: llmseg.Heads, fusion: bool) -> None:
    torch.manual_seed(2)
    selector = MaskSelector(12, 20, **SIZES, heads=heads, fusion=fusion)
    masks, valid, states, owner = batch(4, [5, 3], [1, 2], 5)
    masks.requires_grad_(), states.requires_grad_()
    scores = selector(masks, valid, states, owner)
    assert (scores.similarity is None) == (heads == "iop")
    assert (scores.iop is None) == (heads == "iou")
    losses = llmseg.selection_losses(scores, torch.rand(3, 5), torch.rand(3, 5), owner)
    assert len(losses) == (2 if heads == "both" else 1)
    sum(losses.values()).backward()
    # one text token: its softmax is 1 whatever the query and the key are, so they never learn
    constant = {
        f"{part}.{name}.{what}"
        for part in ("final_attn", "cross_attn_token_to_image")
        for name in ("q_proj", "k_proj")
        for what in ("weight", "bias")
    }
    for name, parameter in selector.named_parameters():
        assert parameter.grad is not None, name
        still = any(name.endswith(end) for end in constant) or name.endswith("k_proj.bias")
        assert still or parameter.grad.abs().max() > 1e-7, name
        if any(name.endswith(end) for end in constant):
            assert not parameter.grad.any(), name
    assert states.grad is not None
    assert states.grad.abs().sum(-1).min() > 0


def test_float16_vectors_and_bfloat16_states_under_autocast(selector: MaskSelector) -> None:
    masks, valid, states, owner = batch(8, [5, 2], [2, 1], 5)
    exact = selector(masks.half().float(), valid, states.bfloat16().float(), owner)
    with torch.autocast("cpu", torch.bfloat16):
        scores = selector(masks.half(), valid, states.bfloat16(), owner)
    for found, expected in ((scores.similarity, exact.similarity), (scores.iop, exact.iop)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[valid[owner]], expected[valid[owner]], atol=0.05, rtol=0)


def test_it_learns_which_mask_a_state_means() -> None:
    torch.manual_seed(1)
    selector = MaskSelector(12, 20, **SIZES)
    masks, valid, states, owner = batch(9, [6, 4], [3, 3], 6)
    truth = torch.zeros(6, 6)
    truth[torch.arange(6), torch.tensor([0, 2, 5, 3, 1, 0])] = 1
    optimiser = torch.optim.AdamW(selector.parameters(), lr=2e-3, weight_decay=0)
    for _ in range(80):
        optimiser.zero_grad()
        sum(llmseg.selection_losses(selector(masks, valid, states, owner), truth, truth, owner).values()).backward()
        optimiser.step()
    scores = selector(masks, valid, states, owner)
    for name in llmseg.STRATEGIES:
        assert torch.equal(select(scores, name), truth.bool()), name
