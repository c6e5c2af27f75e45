"""The dynamic vocabulary: a sample's masks are words of its own, by ordinary autograd, in training and in generation."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.train.elisa.text import PREFIXES, REQUESTS, Style, conversation, drop_tokens
from stages.train.language.adapter import AdapterSizes, MaskAdapter
from stages.train.language.llava import IGNORED, load_llava
from stages.train.language.mask_words import REJ, MaskWords
from stages.train.language.text import IMAGE, encode_prompt
from stages.train.language.vocabulary import ExtendedLlava, NamedOnce, token_loss
from stages.train.places import GEOMETRY, place_features

DIM, MOST = 6, 5
FIRST = 2000  # id of mask 0: behind any tokenizer here


@pytest.fixture(params=["gemma", "llama"])
def model(request: pytest.FixtureRequest, full_llava: Any) -> ExtendedLlava:
    _, folder = full_llava(request.param)
    extra = {"words": (REJ,), "adapter": {"dim_in": DIM, "dropout": 0.0, "noise": 0.0}}
    torch.manual_seed(1)
    made, _ = load_llava(str(folder), "float32", model_class=ExtendedLlava, extra=extra)
    torch.nn.init.normal_(made.words, std=0.3)
    return made.eval()


def inputs(model: ExtendedLlava, tokenizer: Any, counts: tuple[int, ...] = (3, 1)) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    ids = encode_prompt(tokenizer, f"{IMAGE}\nWhich thing opens a lock?", 16)
    rows = [[*ids, model.first_mask, 9, model.word_id(REJ)] for _ in counts]
    return {
        "input_ids": torch.tensor(rows),
        "pixel_values": torch.randn(len(counts), 16, 24),
        "masks": torch.randn(len(counts), max(counts), DIM),
        "masks_valid": torch.arange(max(counts))[None] < torch.tensor(counts)[:, None],
    }


def test_it_is_a_model_whose_embeddings_were_resized(model: ExtendedLlava, tokenizer: Any) -> None:
    """The plain way: a copy of E with the rows behind it, input and output, one sample at a time."""
    batch = inputs(model, tokenizer)
    got = model(**batch).logits
    for b in range(2):
        rows = model.rows(batch["masks"], 2)[b]
        table = model.get_input_embeddings()
        scale = getattr(table, "scalar_embed_scale", 1.0)
        words = torch.cat([table.weight, rows]) * scale
        ids = batch["input_ids"][b]
        embedded = words[ids]
        projected = model.model.multi_modal_projector(batch["pixel_values"][b]) * model.config.image_scale
        embedded[ids == model.config.image_token_id] = projected
        hidden = model.model.language_model(inputs_embeds=embedded[None]).last_hidden_state[0]
        want = hidden @ torch.cat([model.lm_head.weight, rows]).T
        count = model.first_mask + int(batch["masks_valid"][b].sum())
        torch.testing.assert_close(got[b, :, :count], want[:, :count], rtol=1e-4, atol=1e-4)
        assert torch.isneginf(got[b, :, count:]).all()


def test_a_sample_s_words_are_nobody_else_s_business(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer)
    alone = model(**{name: value[:1] for name, value in batch.items()}).logits
    before = model(**batch).logits
    torch.testing.assert_close(before[:1], alone, rtol=1e-4, atol=1e-4)
    batch["masks"][0, 1] *= -1  # changes what mask 1 of the first sample says, nothing in the second
    changed = model(**batch).logits
    torch.testing.assert_close(changed[:, :, : model.first_mask + 1], before[:, :, : model.first_mask + 1])
    assert not torch.allclose(changed[0, :, model.first_mask + 1], before[0, :, model.first_mask + 1])


def test_gradients_reach_adapter_and_words_through_inputs_and_outputs(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    labels[:, -1] = 9  # an ordinary word behind the mask: the mask's row matters as input
    model(**batch, labels=labels).loss.backward()
    assert all(float(weight.grad.abs().sum()) > 0 for weight in model.adapter.parameters() if weight.numel() > 32)
    through_input = model.adapter.std_emb.grad.clone()
    model.zero_grad()
    batch["input_ids"][:, -3:] = 9
    labels[:, -1] = model.first_mask  # and as output
    model(**batch, labels=labels).loss.backward()
    assert float(model.adapter.std_emb.grad.abs().sum()) > 0
    assert not torch.allclose(model.adapter.std_emb.grad, through_input)


def test_a_label_that_is_not_there_is_an_error(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer, (3, 1))
    labels = torch.full_like(batch["input_ids"], IGNORED)
    labels[1, -1] = model.first_mask + 2
    with pytest.raises(ValueError, match="a label is a mask that is not there"):
        model(**batch, labels=labels)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_step_by_step_over_the_extended_vocabulary(
    model: ExtendedLlava, tokenizer: Any, beams: int
) -> None:
    batch = inputs(model, tokenizer, (5, 2))
    batch["input_ids"] = batch["input_ids"][:, :-3]
    model.adapter.std_emb.data.mul_(3)  # masks are likely
    ones = torch.ones_like(batch["input_ids"])
    how = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "eos_token_id": -1, "pad_token_id": 0}
    found = model.generate(**batch, attention_mask=ones, **how)[:, ones.shape[1] :]
    assert bool((found >= model.first_row).any())
    for b in range(2):
        alone = {name: value[b : b + 1] for name, value in batch.items()}
        assert bool((found[b] < model.first_mask + int(alone["masks_valid"].sum())).all()), "a mask that is not there"
        if beams == 1:
            ids = alone.pop("input_ids")
            for _ in range(6):
                ids = torch.cat([ids, model(ids, **alone).logits[:, -1:].argmax(-1)], dim=1)
            assert torch.equal(ids[0, ones.shape[1] :], found[b])


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answer_names_a_mask_once(model: ExtendedLlava, tokenizer: Any, beams: int) -> None:
    batch = inputs(model, tokenizer, (5, 2))
    model.adapter.std_emb.data.mul_(5)  # whatever comes next is a mask
    length = batch["input_ids"].shape[1]
    how = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "eos_token_id": -1, "pad_token_id": 0}
    how |= {"attention_mask": torch.ones_like(batch["input_ids"])}
    again = model.generate(**batch, **how)[:, length:].tolist()
    once = model.generate(**batch, **how, logits_processor=[NamedOnce(length, model.first_mask)])[:, length:].tolist()
    assert any(len(set(row)) < len(row) for row in again)
    for row, masks in zip(once, (5, 2), strict=True):
        named = [token for token in row if token >= model.first_mask]
        assert named
        assert len(set(named)) == len(named) <= masks
    if beams == 1:
        assert [row[0] for row in once] == [row[0] for row in again]  # what the question names does not count


def test_left_padding_changes_nothing(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer, (3,))
    want = model(**batch).logits
    padding = torch.zeros(1, 4, dtype=torch.int64)
    mask = torch.cat([padding, torch.ones_like(batch["input_ids"])], dim=1)
    batch["input_ids"] = torch.cat([padding, batch["input_ids"]], dim=1)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    got = model(**batch, attention_mask=mask, position_ids=position).logits[:, 4:]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_features_and_tokens_must_be_as_many(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer, (3,))
    with pytest.raises(ValueError, match="16 <image> tokens and 15 features"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:, 1:]})


@given(st.integers(0, 2**31), st.sampled_from(["labels", "positions"]), st.floats(0.1, 2))
def test_the_loss_is_the_plain_sum(seed: int, over: str, temperature: float) -> None:
    torch.manual_seed(seed)
    logits, wanted = torch.randn(6, 7), torch.randint(0, 7, (6,))
    total = count = 0.0
    for row, label in zip(logits, wanted.tolist(), strict=True):
        weight = 2.0 if label >= 5 else 1.0
        total -= float(weight * F.log_softmax(row / temperature, -1)[label])
        count += weight
    want = total / (count if over == "labels" else 40)
    assert float(token_loss(logits, wanted, 40, 5, temperature, 2.0, over)) == pytest.approx(want, rel=1e-4)


def test_the_loss_with_labels_is_that_of_all_logits(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer, (3, 1, 2))
    labels = batch["input_ids"].clone()
    labels[:, :-4] = IGNORED
    labels[1, -3] = IGNORED
    found = model(**batch, labels=labels)
    whole = model(**batch).logits
    assert found.logits is None
    want = F.cross_entropy(whole[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(found.loss, want, rtol=1e-4, atol=1e-5)


def released_loss(logits: torch.Tensor, labels: torch.Tensor, first_row: int, pad: int) -> torch.Tensor:
    """As ``LISA_Model.optim_step`` (DavidC001/LISA_ACV): labels [B, A], padded on the left, and the last A logits."""
    weight = torch.ones(logits.shape[-1])
    weight[first_row:] = 2
    flat = F.cross_entropy(
        logits[:, -labels.shape[1] :].flatten(0, 1) / 0.1,
        labels.flatten(),
        weight=weight,
        ignore_index=pad,
        reduction="none",
    )
    return flat.mean()


def test_the_divisor_over_positions_is_the_released_one(model: ExtendedLlava, tokenizer: Any) -> None:
    """Answers of 4, 2 and 3 tokens after a long question: the divisor is 3 x 4, whatever the question and the image take."""
    batch = inputs(model, tokenizer, (3, 3, 3))
    labels = torch.full_like(batch["input_ids"], IGNORED)
    length = labels.shape[1]
    answers = [[7, model.first_mask, 9, 8], [model.first_mask + 2, 8], [9, model.word_id(REJ), 8]]
    padded = torch.zeros(3, 4, dtype=torch.int64)
    for row, answer in enumerate(answers):
        labels[row, length - len(answer) :] = torch.tensor(answer)
        padded[row, 4 - len(answer) :] = torch.tensor(answer)
    how = {"temperature": 0.1, "row_weight": 2.0, "over": "positions"}
    found = model(**batch, labels=labels, loss_options=how).loss
    want = released_loss(model(**batch).logits[:, :-1], padded, model.first_row, pad=0)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_the_loss_of_no_answer_at_all_is_zero(model: ExtendedLlava, tokenizer: Any) -> None:
    batch = inputs(model, tokenizer, (3, 1))
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for over in ("labels", "positions"):
        assert float(model(**batch, labels=labels, loss_options={"over": over}).loss.detach()) == 0


@pytest.mark.parametrize("variant", ["mlp", "query"])
def test_adapters_turn_any_shape_into_rows(variant: Any) -> None:
    torch.manual_seed(0)
    adapter = MaskAdapter(AdapterSizes(6, 0, variant, linears=4, queries=(3, 2), heads=(1, 2)), 8)
    masks = torch.randn(2, 3, 6)
    assert adapter(masks).shape == (2, 3, 8)
    adapter.eval()
    torch.testing.assert_close(adapter(masks)[1, 2], adapter(masks[1, 2][None])[0])
    embeddings = 2 * torch.randn(50, 8) + 1
    adapter.start_like(embeddings)
    among = (adapter(torch.randn(9, 6)) - embeddings.mean(0)) / embeddings.std(0)
    torch.testing.assert_close(among, F.layer_norm(among, (8,)), atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="found 'linear', expected one of mlp, query"):
        MaskAdapter(AdapterSizes(6, 0, "linear"), 8)  # type: ignore[arg-type]


def test_an_adapter_may_be_told_where_a_mask_is() -> None:
    torch.manual_seed(0)
    adapter = MaskAdapter(AdapterSizes(6, GEOMETRY), 8).eval()
    boxes, sizes = torch.tensor([[10.0, 20, 30, 40], [50.0, 20, 30, 40]]), torch.tensor([100.0, 200])
    where = place_features(boxes, sizes)
    assert where.shape == (2, GEOMETRY)
    torch.testing.assert_close(where[0, :4], 2 * torch.tensor([25 / 200, 40 / 100, 30 / 200, 40 / 100]) - 1)
    what = torch.randn(1, 6).expand(2, 6)
    rows = adapter(torch.cat([what, where], dim=1))
    assert not torch.allclose(rows[0], rows[1], atol=1e-2)


def test_templates_are_the_released_ones() -> None:
    assert len(REQUESTS) == 12
    assert len(PREFIXES) == 11
    assert "Output the segmentation mask for the object in the image" in REQUESTS
    assert "Provide the mask for the object" in REQUESTS


@given(st.lists(st.integers(0, MOST - 1), unique=True), st.integers(0, 2**31), st.sampled_from(["before", "after"]))
def test_what_is_said_comes_back(tokenizer: Any, positives: list[int], seed: int, position: Any) -> None:
    words = MaskWords(tokenizer, {REJ: FIRST - 1}, FIRST, MOST)
    style = Style(position)
    turn = conversation(
        "Which thing opens a lock?", "The answer is the key.", positives, np.random.default_rng(seed), style
    )
    found = words.encode([turn], 16)
    said = [label for label in found.labels if label != IGNORED]
    assert {label - FIRST for label in said if label >= FIRST} == set(positives)
    assert (FIRST - 1 in said) == (not positives)
    text, masks = words.decode(said)
    assert sorted(masks) == sorted(positives)
    assert text.replace("  ", " ") == turn[1].replace("  ", " ")
    assert max(found.ids) < FIRST + MOST
    assert turn[1].endswith("key.") == (position == "before")


def test_nothing_is_answered_in_the_words_of_an_answer_with_masks() -> None:
    """Then the state that would predict a mask decides, and no state before it that never had to know."""
    for seed in range(20):
        _, answer = conversation("Which?", None, [], np.random.default_rng(seed), Style())
        assert answer in {f"{prefix} {REJ}." for prefix in PREFIXES}


def test_masks_are_named_in_random_order() -> None:
    named = set()
    for seed in range(20):
        turn = conversation("Which?", None, [3, 0, 2], np.random.default_rng(seed), Style())
        named.add(tuple(int(number) for number in re.findall(r"<SEG_MASK_(\d+)>", turn[1])))
    assert len(named) > 3
    assert {tuple(sorted(order)) for order in named} == {(1, 3, 4)}


def test_dropped_tokens_are_a_share_and_never_the_image() -> None:
    ids = torch.full((50, 100), 7)
    kept = torch.zeros(50, 100, dtype=torch.bool)
    kept[:, :20] = True
    found = drop_tokens(ids, 0.2, 3, kept, torch.Generator().manual_seed(0))
    assert bool((found[:, :20] == 7).all())
    assert float((found[:, 20:] == 3).float().mean()) == pytest.approx(0.2, abs=0.02)
