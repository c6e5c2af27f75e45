"""Which images are chosen, and which split each belongs to."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.questions.choose import Candidate, choose, shortfalls, split_of
from stages.questions.params import ChooseParams, GroupParams

SHARES = {"train": 11.0, "val": 1.0, "test": 2.0}


def candidate(number: int, labels: tuple[str, ...], areas: tuple[int, ...] | None = None) -> Candidate:
    name = f"{number:012d}"
    return Candidate("lvis/train", number, name, f"{name}.jpg", name, 10, 10, labels, areas or (5,) * len(labels))


def many(count: int) -> list[Candidate]:
    return [candidate(number, tuple(f"c{each}" for each in range(number % 9))) for number in range(count)]


def groups(simple: int, many_: int) -> tuple[GroupParams, ...]:
    return (
        GroupParams(name="simple", categories=(2, 5), images=simple),
        GroupParams(name="complex", categories=(6, None), images=many_),
    )


def test_groups_go_by_the_number_of_categories() -> None:
    params = ChooseParams(groups=groups(20, 10))
    chosen = choose(many(300), params)
    assert Counter(each.group for each in chosen) == {"simple": 20, "complex": 10}
    for each in chosen:
        assert (2 <= len(each.labels) <= 5) == (each.group == "simple")
        assert len(each.labels) > 1
    assert shortfalls(chosen, params) == {}
    assert shortfalls(choose(many(18), params), params) == {"simple": (8, 20), "complex": (6, 10)}


def test_the_default_is_the_papers() -> None:
    assert [(each.categories, each.images) for each in ChooseParams().groups] == [((2, 5), 6000), ((6, None), 4000)]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(40)), seed=st.integers(0, 3))
def test_the_order_of_the_source_decides_nothing(order: list[int], seed: int) -> None:
    params = ChooseParams(groups=groups(8, 4), seed=seed)
    found = many(40)
    assert choose([found[each] for each in order], params) == choose(found, params)


def test_seeds_draw_other_images() -> None:
    drawn = [choose(many(300), ChooseParams(groups=groups(20, 10), seed=seed)) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_images_that_come_later_move_none_out_of_its_group_or_split() -> None:
    params = ChooseParams(groups=groups(10_000, 10_000))
    before, after = choose(many(100), params), choose(many(200), params)
    assert [each for each in after if each.candidate.image_index < 100] == before


def test_a_category_with_enough_images_is_not_asked_about_in_others() -> None:
    params = ChooseParams(groups=groups(1000, 1000), per_category=5)
    chosen = choose(many(200), params)
    shown = Counter(label for each in chosen for label in each.labels)
    assert max(shown.values()) == 5
    assert len(chosen) < len(choose(many(200), params.model_copy(update={"per_category": None})))


def test_small_and_dropped_categories_are_neither_shown_nor_counted() -> None:
    of = candidate(0, ("cup", "cat", "dust", "cup", "sky"), (1, 4, 1, 2, 50))
    params = ChooseParams(groups=groups(1, 1), min_area=0.03, drop=("sky",))
    (chosen,) = choose([of], params)
    assert chosen.labels == ("cup", "cat")  # the cups together have 3 of 100 px
    assert choose([replace(of, areas=(1, 4, 1, 1, 50))], params) == []


def test_a_category_without_a_pixel_is_not_asked_about() -> None:
    of = candidate(0, ("cup", "cat", "ghost"), (1, 4, 0))
    (chosen,) = choose([of], ChooseParams(groups=groups(1, 1)))
    assert chosen.labels == ("cup", "cat")


def test_splits_have_their_shares_and_copies_of_a_picture_are_in_one() -> None:
    names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(14_000)]
    counts = Counter(split_of(name, SHARES) for name in names)
    assert counts.keys() == SHARES.keys()
    for split, share in SHARES.items():
        assert counts[split] == pytest.approx(1000 * share, rel=0.1)
    assert split_of(names[0], SHARES) == split_of(names[0], {key: 3 * share for key, share in SHARES.items()})


@pytest.mark.parametrize(
    ("names", "most", "says"),
    [("aa", 2, "two groups 'a'"), ("ab", 3, r"a \[2, 3\] and b \[3, None\] overlap"), ("ab", None, "overlap")],
)
def test_groups_that_are_not_apart_are_refused(names: str, most: int | None, says: str) -> None:
    first, second = names
    with pytest.raises(ValueError, match=says):
        ChooseParams(
            groups=(
                GroupParams(name=first, categories=(2, most), images=1),
                GroupParams(name=second, categories=(3, None), images=1),
            )
        )
