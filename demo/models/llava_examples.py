"""The examples that `demo_llava` is trained on: scenes as `demo_clip` sees them, and tokenized questions about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from demo.data.scenes import scene
from demo.models.dialogues import NOTHING, PLACES, READING, WORDS, Exchange, Talk, exchange, talk
from stages.encoders import EncoderInput, build
from stages.train.language.llava import IGNORED
from stages.train.language.text import IMAGE, pad, render

PARTS = 4
"""Number of groups of questions by length, which keeps padding small."""


@dataclass(frozen=True)
class Seen:
    """Everything that can be said about a scene, and its patch features, float16 [64, 128]."""

    about: Talk
    features: np.ndarray


@dataclass(frozen=True)
class Questions:
    """N questions of about the same length, each about an image of its batch.

    image: int64 [N]. input_ids, labels and attention_mask: int64 [N, L], what follows the image. first: int64 [n, 3], row and
    position of the token before an answer's first word, and a possible first word, whose probability is in ``chances``, float
    [n].
    """

    image: Tensor
    input_ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    first: Tensor
    chances: Tensor


@dataclass(frozen=True)
class Batch:
    """B images and questions about them.

    features: float [B, P, C]; cells: int64 [B, P, 4], as :attr:`demo.models.dialogues.Talk.cells`.
    """

    features: Tensor
    cells: Tensor
    questions: tuple[Questions, ...]


@dataclass(frozen=True)
class Lexicon:
    """What the training needs from the tokenizer.

    before: the template's tokens int64 before an image; between, behind: its text between a question and its answer, and after
    the answer. kinds: the tokens int64 of classes, colours, textures and places; words: those of each of these words and of
    "nothing".
    """

    before: Tensor
    between: str
    behind: str
    kinds: tuple[Tensor, ...]
    words: Mapping[str, int]


def see(seeds: Sequence[int], clip: Path) -> list[Seen]:
    """Draw scenes and embed them."""
    torch.set_num_threads(1)
    model = build("demo_clip", {"demo_clip": clip}, "cpu", 1)
    drawn = [scene(seed) for seed in seeds]
    return [
        Seen(talk(each, np.random.default_rng(each.seed)), features.astype(np.float16))
        for each, features in zip(drawn, model([EncoderInput(each.image) for each in drawn]), strict=True)
    ]


def see_all(count: int, first: int, clip: Path, processes: int) -> list[Seen]:
    """``see`` in several processes."""
    parts = [range(start, min(start + 100, first + count)) for start in range(first, first + count, 100)]
    with ProcessPoolExecutor(processes) as pool:
        found = tqdm(pool.map(partial(see, clip=clip), parts), total=len(parts), unit="100 scenes", disable=None)
        return [seen for part in found for seen in part]


def batches(seen: Sequence[Seen], tokenizer: Any, rng: np.random.Generator, images: int, turns: int) -> Iterator[Batch]:
    """Endless batches of questions about scenes in random order."""
    order, known = list[int](), lexicon(tokenizer)
    while True:
        while len(order) < images:
            order += rng.permutation(len(seen)).tolist()
        chosen, order = [seen[number] for number in order[:images]], order[images:]
        yield batch_of(chosen, tokenizer, known, rng, turns)


def batch_of(chosen: Sequence[Seen], tokenizer: Any, known: Lexicon, rng: np.random.Generator, turns: int) -> Batch:
    """``turns`` questions about each of some scenes."""
    said = [exchange(one.about, rng) for one in chosen for _ in range(turns)]
    spaces = ["" if rng.random() < 0.5 else " " for _ in said]  # LISA has a space only in validation
    asked = [f"\n{space}{one.question}{known.between}" for space, one in zip(spaces, said, strict=True)]
    texts = [f"{before}{one.answer}{known.behind}" for before, one in zip(asked, said, strict=True)]
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        [token if begin >= len(before) else IGNORED for token, (begin, _) in zip(ids, offsets, strict=True)]
        for ids, before, offsets in zip(encoded["input_ids"], asked, encoded["offset_mapping"], strict=True)
    ]
    by_length = np.argsort([len(ids) for ids in labels], kind="stable")
    return Batch(
        torch.from_numpy(np.stack([one.features for one in chosen])).float(),
        torch.from_numpy(np.stack([one.about.cells for one in chosen])).long(),
        tuple(
            _questions(
                [number // turns for number in part],
                [encoded["input_ids"][number] for number in part],
                [labels[number] for number in part],
                [said[number] for number in part],
                known,
                tokenizer.pad_token_id,
            )
            for part in (found.tolist() for found in np.array_split(by_length, PARTS))
            if part
        ),
    )


def _questions(
    image: list[int], ids: list[list[int]], labels: list[list[int]], said: list[Exchange], known: Lexicon, pad_id: int
) -> Questions:
    first, chances, places = list[tuple[int, int, int]](), list[float](), set(known.kinds[-1].tolist())
    for row, one in enumerate(said):
        if one.question == READING:
            labels[row] = [IGNORED if label in places else label for label in labels[row]]
        if one.first:
            words = [known.words[word] for word in one.first]
            position = next(number for number, label in enumerate(labels[row]) if label in words)
            labels[row][position] = IGNORED
            first += [(row, position - 1, word) for word in words]
            chances += one.first.values()
    lengths = torch.tensor([len(row) for row in ids])
    return Questions(
        torch.tensor(image),
        pad(ids, pad_id),
        pad(labels, IGNORED),
        (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long(),
        torch.tensor(first, dtype=torch.long).reshape(-1, 3),
        torch.tensor(chances),
    )


def lexicon(tokenizer: Any) -> Lexicon:
    """The :class:`Lexicon` of a tokenizer. Raises the ValueError of :func:`token_ids`."""
    before, rest = render(tokenizer, [(f"{IMAGE}?", "!")]).split(f"{IMAGE}?")
    between, behind = rest.split("!")
    kinds = [token_ids(tokenizer, words) for words in (*WORDS, PLACES)]
    words = zip(
        [word for words in (*WORDS, PLACES) for word in words], [one for ids in kinds for one in ids], strict=True
    )
    return Lexicon(
        torch.tensor(tokenizer(before, add_special_tokens=False)["input_ids"]),
        between,
        behind,
        tuple(map(torch.tensor, kinds)),
        {**dict(words), NOTHING: token_ids(tokenizer, [NOTHING])[0]},
    )


def token_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The one token of each word inside a text.

    Raises:
        ValueError: a word is more than one token.
    """
    found = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    if torn := [word for word, ids in zip(words, found, strict=True) if len(ids) != 1]:
        raise ValueError(f"the tokenizer takes these words apart: {', '.join(torn)}")
    return [ids[0] for ids in found]
