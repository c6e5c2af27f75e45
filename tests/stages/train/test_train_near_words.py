"""The words nearest to a vector are those of all cosines, in readable words."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stages.train.language import near_words
from stages.train.language.near_words import nearest_rows, nearest_spelled


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_the_nearest_are_those_of_all_cosines(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(near_words, "_CHUNK", chunk)
    torch.manual_seed(0)
    vectors, embeddings = torch.randn(4, 8), torch.randn(20, 8)
    embeddings[5] = 0
    ids, cosines = nearest_rows(vectors, embeddings, 6)
    every = F.normalize(vectors, dim=1) @ F.normalize(embeddings, dim=1).T
    expected = every.topk(6, dim=1)
    assert torch.equal(ids, expected.indices)
    torch.testing.assert_close(cosines, expected.values)
    assert nearest_rows(vectors, embeddings, 99)[0].shape == (4, 20)


class Spelled:
    """A tokenizer of a few words."""

    words = ("<s>", " mug", "mug", "\ufffd", "  ", "cup", "\x07", "hat")
    all_special_ids = (0,)

    def __len__(self) -> int:
        return len(self.words)

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[token] for token in ids)


def test_words_that_cannot_be_read_are_left_out_and_those_spelled_alike_count_once() -> None:
    found = nearest_spelled(Spelled(), [0, 2, 1, 3, 4, 6, 99, 5, 7], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.2], 2)
    assert found == [("mug", 0.8), ("cup", 0.3)]
