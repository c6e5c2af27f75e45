"""Questions that come up again, against a comparison of every one with every other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions import near
from stages.questions.items import Pair, Reason
from stages.questions.near import distinct, trigrams, within_quota
from stages.questions.params import CheckParams
from stages.questions.rules import normalized

PARAMS = CheckParams()


def pair(question: str, image_id: str = "a", label: str = "dog", number: int = 0) -> Pair:
    return Pair(image_id, number, question, label, (label,), question)


def cosine(one: str, other: str) -> float:
    """Of counted trigrams, without buckets."""
    counts = [Counter(f" {text} "[at : at + 3] for at in range(len(text))) for text in (one, other)]
    product = sum(count * counts[1][run] for run, count in counts[0].items())
    lengths = [math.sqrt(sum(count * count for count in each.values())) for each in counts]
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0


def reasons(pairs: Sequence[Pair], *protected: str, near: float = 0.9) -> list[Reason | None]:
    kept, rejected = distinct(pairs, CheckParams(near=near), protected)
    found = {(each.image_id, each.number, each.what): each.reason for each in rejected}
    assert len(kept) + len(rejected) == len(pairs)
    return [found.get((each.image_id, each.number, f"{each.question} -> {each.answer}")) for each in pairs]


LONG = "Which animal in this picture would wake the whole family up first at night?"
NEARLY = "Which animal in this picture would wake the whole family up first at noon?"


def test_within_an_image_a_question_comes_up_once_whatever_its_answer() -> None:
    pairs = [pair(LONG), pair(LONG.upper(), label="cat", number=1), pair(NEARLY, label="cow", number=2)]
    assert reasons(pairs) == [None, Reason.DUPLICATE, Reason.NEAR_DUPLICATE]


def test_across_images_it_may_come_up_with_another_answer() -> None:
    pairs = [pair(LONG, "a"), pair(LONG, "b"), pair(NEARLY, "c"), pair(LONG, "d", "cat"), pair("Who can bark?", "e")]
    assert reasons(pairs) == [None, Reason.DUPLICATE, Reason.NEAR_DUPLICATE, None, None]


def test_where_images_are_not_compared_it_may_come_up_in_each() -> None:
    pairs = [pair(LONG), pair(LONG, image_id="b"), pair(LONG, image_id="b", number=1)]
    kept, rejected = distinct(pairs, CheckParams(across=False), [NEARLY.replace("animal", "kitchen tool")])
    assert (kept, [each.number for each in rejected]) == (pairs[:2], [1])
    assert len(distinct(pairs, CheckParams())[0]) == 1


def test_a_protected_question_does_not_come_up_at_all() -> None:
    pairs = [pair(NEARLY, "a", "cat"), pair(LONG, "b"), pair("What else could bark here?", "c")]
    assert reasons(pairs, "Something else entirely?", LONG.lower()) == [Reason.LEAKED, Reason.LEAKED, None]
    _, rejected = distinct(pairs, PARAMS, [LONG])
    assert rejected[0].detail == LONG


def test_the_detail_says_which_one_was_first() -> None:
    _, rejected = distinct([pair(LONG, "a"), pair(NEARLY, "b")], PARAMS)
    assert rejected[0].detail == f"a: {LONG}"


def test_a_question_is_compared_with_those_that_stay() -> None:
    """A chain of small changes: the third is like the second, which went, and not like the first."""
    first, second, third = ("abcdefghij klmnopqrst", "abcdefghij klmnopqXYZ", "abcdefgWVU klmnopqXYZ")
    assert cosine(first.lower(), second.lower()) > 0.7 < cosine(second.lower(), third.lower())
    assert cosine(first.lower(), third.lower()) < 0.7
    assert reasons([pair(each, str(n)) for n, each in enumerate((first, second, third))], near=0.7) == [
        None, Reason.NEAR_DUPLICATE, None,
    ]  # fmt: skip


WORDS = st.lists(st.sampled_from(["what", "which", "dog", "barks", "loudly", "at", "night", "here"]), max_size=6).map(
    " ".join
)
SAID = st.lists(st.tuples(WORDS, st.sampled_from("abc"), st.sampled_from(["dog", "cat"])), max_size=14)


@given(SAID, st.lists(WORDS, max_size=5), st.sampled_from([0.5, 0.8, 1.0]), st.sampled_from([1, 2, 3, 1024]))
def test_it_is_as_comparing_every_one_with_every_other(
    said: list[tuple[str, str, str]], protected: list[str], least: float, block: int
) -> None:
    pairs = [pair(*each, number=number) for number, each in enumerate(said)]
    counts = trigrams([normalized(each.question) for each in pairs] + protected).astype(float)
    lengths = np.linalg.norm(counts, axis=1)

    def alike(one: int, other: int) -> bool:
        texts = [*(each.question for each in pairs), *protected]
        product = counts[one] @ counts[other]
        return texts[one] == texts[other] or bool(
            product > 0 and product >= least * lengths[one] * lengths[other] * (1 - 1e-6)
        )

    left = [
        one for one in range(len(pairs)) if not any(alike(one, len(pairs) + each) for each in range(len(protected)))
    ]
    for same in (lambda one: one.image_id, lambda one: one.labels):
        stays: list[int] = []
        for one in left:
            group = [other for other in stays if same(pairs[one]) == same(pairs[other])]
            if not any(alike(one, other) for other in group):
                stays.append(one)
        left = stays
    before = near.BLOCK
    near.BLOCK = block
    try:
        kept, rejected = distinct(pairs, CheckParams(near=least), protected)
    finally:
        near.BLOCK = before
    assert [each.number for each in kept] == left
    assert sorted(
        [each.number for each in kept] + [each.number for each in rejected if each.number is not None]
    ) == list(range(len(pairs)))


def test_buckets_are_nearly_as_good_as_trigrams() -> None:
    """Buckets that are shared by chance make texts somewhat more alike, and hardly so where they nearly are the same."""
    draw = np.random.default_rng(0)
    words = f"{LONG} {NEARLY} what would keep one dry on a rainy day while the others wait inside".lower().split()
    for _ in range(100):
        chosen = draw.choice(words, 15).tolist()
        other = [*chosen[:7], str(draw.choice(words)), *chosen[8:]]
        texts = [" ".join(chosen), " ".join(other), " ".join(draw.choice(words, 15))]
        counts = trigrams(texts).astype(float)
        counts /= np.linalg.norm(counts, axis=1, keepdims=True)
        near, far = counts[0] @ counts[1], counts[0] @ counts[2]
        assert abs(near - cosine(texts[0], texts[1])) < 0.03
        assert abs(far - cosine(texts[0], texts[2])) < 0.2
        assert far < 0.85


def test_a_run_of_characters_is_of_one_text() -> None:
    texts = ["abc", "", "x", "abc def", "\ud800"]
    assert (trigrams(texts) == np.concatenate([trigrams([each]) for each in texts])).all()
    assert trigrams(texts).sum(axis=1).tolist() == [3, 0, 1, 7, 1]


def test_embeddings_decide_where_they_are_given() -> None:
    pairs = [pair("one", "a"), pair("two", "b"), pair("three", "c")]
    vectors = np.array([[1, 0], [0, 2], [0.01, 3]], np.float32)
    kept, rejected = distinct(pairs, PARAMS, (), vectors)
    assert [each.image_id for each in kept] == ["a", "b"]
    assert rejected[0].reason == Reason.NEAR_DUPLICATE
    kept, rejected = distinct(pairs, PARAMS, ["x"], vectors, np.array([[5, 0]], np.float32))
    assert [(each.image_id, each.reason) for each in rejected] == [("a", Reason.LEAKED), ("c", Reason.NEAR_DUPLICATE)]


@pytest.mark.parametrize(
    ("vectors", "protected", "message"),
    [
        (np.zeros((1, 2), np.float32), None, r"questions: found \[1, 2\], expected \[2, D\]"),
        (np.full((2, 2), np.nan, np.float32), None, "questions: found one that is not finite"),
        (np.ones((2, 2), np.float32), None, r"protected questions: found none, expected \[1, 2\]"),
        (
            np.ones((2, 2), np.float32),
            np.ones((1, 3), np.float32),
            r"protected questions: found \[1, 3\], expected \[1, 2\]",
        ),
    ],
)
def test_embeddings_of_another_shape_are_told(vectors: np.ndarray, protected: np.ndarray | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distinct([pair("one"), pair("two", "b")], PARAMS, ["three"], vectors, protected)


def test_a_category_has_its_quota() -> None:
    pairs = [pair("one"), pair("two"), pair("three", label="cat"), pair("four", number=3)]
    kept, rejected = within_quota(pairs, 2)
    assert kept == pairs[:3]
    assert [(each.number, each.reason, each.detail) for each in rejected] == [(3, Reason.QUOTA, "dog: 2 before")]
    assert within_quota(pairs, None) == (pairs, [])


@pytest.mark.slow
def test_sixty_thousand_questions_of_one_category() -> None:
    """The largest set that is planned, at its worst: every question is compared with all that stay."""
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghijklmnop"), 5)) for _ in range(2000)]
    chosen = draw.integers(0, len(words), (60_000, 14)).tolist()
    pairs = [pair(" ".join(words[each] for each in line), str(number)) for number, line in enumerate(chosen)]
    again = [Pair(f"again {each.image_id}", 0, each.question, "dog", ("dog",), "") for each in pairs[::1000]]
    kept, rejected = distinct([*pairs, *again], PARAMS, [pairs[0].question])
    assert {each.image_id for each in rejected} == {each.image_id for each in again} | {"0"}
    assert len(kept) == 59_999
