"""What a mixture draws, as dvlab-research/LISA's loaders draw it (utils/dataset.py and those of each data set)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from store.stream.mixture import Dice, Group, MixtureSchedule, Source
from store.stream.schedule import SampleSet

GROUPS = {
    "sem_seg": Group(9, ("maps", "parts")),
    "refer_seg": Group(3, ("refer",)),
    "vqa": Group(3, ("talk",)),
    "reason_seg": Group(1, ("reason",)),
}


def source(pool: str, targets: list[int], texts: int | list[int] = 1) -> Source:
    count = sum(targets)
    of_each = [texts] * count if isinstance(texts, int) else texts
    return Source(pool, np.arange(len(targets)) * 2, np.array(targets, np.int64), np.array(of_each, np.int64))


SOURCES = {
    "maps": source("targets", [8, 1, 4]),
    "parts": source("targets", [2, 0, 0, 5], 2),
    "refer": source("texts", [2, 1], [3, 3, 2]),
    "talk": source("records", [1, 3, 2]),
    "reason": source("texts", [1, 1], [5, 1]),
}


def schedule(
    sources: Mapping[str, Source] = SOURCES, groups: Mapping[str, Group] = GROUPS, **how: Any
) -> MixtureSchedule:
    sets = {name: SampleSet(one.image, np.zeros(one.units, np.int64)) for name, one in sources.items()}
    values = {"batch_size": 2, "shuffle": True, "seed": 3, "length": 4000, **how}
    return MixtureSchedule(sets, sources=sources, groups=groups, **values)


def test_weights_are_probabilities_of_samples() -> None:
    found = schedule().drawn(1)
    shares = {name: found[name]["samples"] / 4000 for name in ("refer", "talk", "reason")}
    assert shares["refer"] == pytest.approx(3 / 16, abs=0.02)
    assert shares["talk"] == pytest.approx(3 / 16, abs=0.02)
    assert shares["reason"] == pytest.approx(1 / 16, abs=0.015)
    assert found["reason"]["samples"] != 4000 // 16  # they are no quotas


def test_a_set_with_pictures_without_labels_is_seen_less_than_its_share() -> None:
    """Where a picture has nothing to ask, LISA draws again within the group, the data set included."""
    found = schedule().drawn(1)
    maps, parts = found["maps"]["samples"], found["parts"]["samples"]
    assert maps / (maps + parts) == pytest.approx(2 / 3, abs=0.03)  # half of the pictures of parts are drawn in vain


def test_a_picture_has_up_to_three_questions_without_replacement() -> None:
    found = schedule()
    for number in range(400):
        rows = found.sample(0, number)
        assert len({row[:2] for row in rows}) == 1
        name = list(SOURCES)[rows[0][0]]
        if name == "talk":
            assert len(rows) == 1
            continue
        own, at = SOURCES[name], rows[0][1] // 2
        start = int(own.targets[:at].sum())
        texts = own.texts[start : start + own.targets[at]]
        every = int(own.targets[at]) if own.pool == "targets" else int(texts.sum())
        assert len(rows) == min(3, every)
        asked = {row[2] if own.pool == "targets" else (row[2], int(row[3] * texts[row[2]])) for row in rows}
        assert len(asked) == len(rows)


def test_labels_are_equally_likely_and_so_are_texts_of_all_refs_together() -> None:
    """Two sentences may be of one ref: they are drawn from one pool."""
    found = schedule(length=6000)
    labels: Counter[int] = Counter()
    sentences: Counter[tuple[int, int]] = Counter()
    for number in range(6000):
        for at, image, target, text in found.sample(0, number):
            if at == 0 and image == 0:
                labels[target] += 1
            if at == 2 and image == 0:
                sentences[target, int(text * 3)] += 1
    assert len(labels) == 8
    assert max(labels.values()) / min(labels.values()) < 1.3
    assert set(sentences) == {(target, text) for target in (0, 1) for text in (0, 1, 2)}
    assert max(sentences.values()) / min(sentences.values()) < 1.4


def test_conversations_are_drawn_by_record_and_not_by_picture() -> None:
    found, counts = schedule(groups={"vqa": Group(1, ("talk",))}, sources={"talk": SOURCES["talk"]}), Counter[int]()
    for number in range(3000):
        ((_, image, _, _),) = found.sample(0, number)
        counts[image] += 1
    assert counts[2] / 3000 == pytest.approx(3 / 6, abs=0.03)
    assert counts[0] / 3000 == pytest.approx(1 / 6, abs=0.03)


def test_what_is_drawn_depends_on_nothing_but_seed_epoch_and_number() -> None:
    def rows(size: int, world: int) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        for rank in range(world):
            one = schedule(batch_size=size, rank=rank, world_size=world, length=48)
            for step in one.steps():
                samples = step.samples
                for row in zip(
                    samples.number, samples.source, samples.image, samples.target, samples.text, strict=True
                ):
                    found.setdefault(row[0], []).append(row[1:])
        return found

    assert rows(2, 1) == rows(3, 4) == rows(48, 1)
    assert set(rows(2, 1)) == set(range(48))
    one, other = schedule(), schedule(seed=4)
    assert [one.sample(0, n) for n in range(9)] != [one.sample(1, n) for n in range(9)]
    assert [one.sample(0, n) for n in range(9)] != [other.sample(0, n) for n in range(9)]


def test_the_draw_is_the_same_for_ever() -> None:
    """Numbers that a run was trained with; they may not change with a version of numpy or Python."""
    dice = Dice(3, 0, 0, 3)
    assert [dice.below(1000) for _ in range(6)] == [871, 299, 77, 675, 906, 434]
    assert dice.some(5, 3) == [3, 4, 1]
    assert dice.fraction() == 0.682629341114469


def test_a_state_goes_on_where_it_was_taken() -> None:
    one = schedule(length=40)
    steps = list(one.steps())
    for step in steps[:7]:
        one.advance(step)
    other = schedule(length=40)
    other.load_state_dict(one.state_dict())
    assert list(other.steps()) == steps[7:]


@pytest.mark.parametrize("length", [160, 163])
def test_laps_have_exact_shares_and_no_picture_twice_before_all_came(length: int) -> None:
    one = schedule(draw="laps", length=length)
    counts = one.drawn(1)
    assert abs(counts["maps"]["samples"] - length * 4.5 / 16) < 1
    assert abs(counts["reason"]["samples"] - length / 16) < 1
    seen: dict[int, list[int]] = {}
    for epoch in range(3):
        for number in range(length):
            rows = one.sample(epoch, number)
            seen.setdefault(rows[0][0], []).append(rows[0][1])
    assert set(seen[1]) == {0, 6}  # the pictures of parts that have something to ask
    for at, name in enumerate(SOURCES):
        if SOURCES[name].pool != "records":
            lap = int((SOURCES[name].targets > 0).sum())
            assert all(len(set(seen[at][start : start + lap])) == lap for start in range(0, len(seen[at]) - lap, lap))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"draw": "all"}, "draw='all'"),
        ({"questions": 0}, "questions=0"),
        ({"length": None}, "length=None"),
        ({"groups": {"a": Group(1, ("maps",))}}, r"found groups of \['maps'\], expected each of"),
    ],
)
def test_what_does_not_fit_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedule(**how)


def test_a_group_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="group g has a weight of 1, but no question"):
        schedule({"maps": source("targets", [0, 0])}, {"g": Group(1, ("maps",))})
