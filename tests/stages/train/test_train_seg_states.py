from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.train.language.seg_states import projection, seg_states

SEG, PAD = 7, 0


def naive(hidden: torch.Tensor, input_ids: torch.Tensor) -> tuple[list[list[float]], list[int]]:
    """Token by token: the state one to the left of every <SEG>."""
    states, owner = [], []
    for sample, tokens in enumerate(input_ids.tolist()):
        for position, token in enumerate(tokens):
            if token == SEG and position > 0:
                states.append(hidden[sample, position - 1].tolist())
                owner.append(sample)
    return states, owner


def padded(rows: list[list[int]], side: str) -> torch.Tensor:
    longest = max(map(len, rows))
    full = [
        [PAD] * (longest - len(row)) + row if side == "left" else row + [PAD] * (longest - len(row)) for row in rows
    ]
    return torch.tensor(full)


@pytest.mark.parametrize("side", ["left", "right"])
def test_none_one_and_several_states_a_sample_with_padding(side: str) -> None:
    rows = [[1, 2, SEG], [3, 4, 5, 6], [1, SEG, 2, SEG, 3, SEG], [2, 3]]
    ids = padded(rows, side)
    # every state says which token of which sample it is, whatever the padding
    hidden = torch.full((4, 6, 2), -1.0)
    for sample, row in enumerate(rows):
        start = 6 - len(row) if side == "left" else 0
        for place in range(len(row)):
            hidden[sample, start + place] = torch.tensor([sample, place])
    states, owner = seg_states(hidden, ids, SEG)
    assert owner.tolist() == [0, 2, 2, 2]
    assert states.tolist() == [[0, 1], [2, 0], [2, 2], [2, 4]]


def test_a_batch_without_seg_has_no_states_but_their_width() -> None:
    states, owner = seg_states(torch.zeros(2, 5, 3), torch.ones(2, 5, dtype=torch.long), SEG)
    assert states.shape == (0, 3)
    assert owner.shape == (0,)
    assert owner.dtype == torch.int64


def test_two_in_a_row_and_one_at_the_very_start() -> None:
    hidden = torch.arange(4.0).view(1, 4, 1)
    states, _ = seg_states(hidden, torch.tensor([[SEG, 1, SEG, SEG]]), SEG)
    assert states.flatten().tolist() == [1, 2]  # the first <SEG> was predicted by nothing


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 9))
def test_any_batch_equals_a_loop(seed: int, samples: int, length: int) -> None:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 9, (samples, length), generator=random)
    hidden = torch.randn(samples, length, 3, generator=random)
    states, owner = seg_states(hidden, ids, SEG)
    expected, samples_of = naive(hidden, ids)
    assert states.tolist() == expected
    assert owner.tolist() == samples_of


def test_the_gradient_reaches_the_token_before_and_no_other() -> None:
    hidden = torch.randn(1, 4, 3, requires_grad=True)
    states, _ = seg_states(hidden, torch.tensor([[1, 2, SEG, 3]]), SEG)
    states.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[0].sum(-1).tolist() == [0, 3, 0, 0]


def test_states_of_a_widened_sequence_need_widened_ids() -> None:
    with pytest.raises(ValueError, match=r"\(1, 260\) tokens for input ids \(1, 5\).*widen <image>"):
        seg_states(torch.zeros(1, 260, 3), torch.zeros(1, 5, dtype=torch.long), SEG)


@pytest.mark.parametrize("hidden", [2048, 4096, 5120])
def test_the_projection_has_the_released_shapes(hidden: int) -> None:
    with torch.device("meta"):
        made = projection(hidden, 256)
    assert {key: tuple(value.shape) for key, value in made.state_dict().items()} == {
        "0.weight": (hidden, hidden),
        "0.bias": (hidden,),
        "2.weight": (256, hidden),
        "2.bias": (256,),
    }
