"""What a mixture draws, as dvlab-research/LISA's loaders draw it (utils/dataset.py and those of each data set).

Tests named ``test_behaviour_NN`` are of the list in tests/stages/train/test_train_behaviours.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from store.errors import StoreError
from store.stream.dice import Dice
from store.stream.mixture import Group, MixtureSchedule
from store.stream.sample_set import SampleSet
from store.stream.source import FALSE, POOLS, TRUE, Source

GROUPS = {
    "sem_seg": Group(9, ("maps", "parts")),
    "refer_seg": Group(3, ("refer",)),
    "vqa": Group(3, ("talk",)),
    "reason_seg": Group(1, ("reason",)),
}


def source(pool: str, targets: list[int], texts: int | list[int] = 1, absent: str = "") -> Source:
    """absent: a letter for each target, F where its premise is false."""
    count = sum(targets)
    of_each = [texts] * count if isinstance(texts, int) else texts
    false = np.array([letter == "F" for letter in absent]) if absent else None
    return Source(pool, np.arange(len(targets)) * 2, np.array(targets, np.int64), np.array(of_each, np.int64), false)


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


def test_behaviour_01_weights_are_probabilities_of_samples_and_no_quotas() -> None:
    found = schedule().drawn(1)
    shares = {name: found[name]["samples"] / 4000 for name in ("refer", "talk", "reason")}
    assert shares["refer"] == pytest.approx(3 / 16, abs=0.02)
    assert shares["talk"] == pytest.approx(3 / 16, abs=0.02)
    assert shares["reason"] == pytest.approx(1 / 16, abs=0.015)
    assert found["reason"]["samples"] != 4000 // 16  # they are no quotas


def test_behaviour_04_a_picture_without_labels_is_drawn_again_within_its_group() -> None:
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


def test_behaviour_02_an_epoch_is_a_number_of_samples_and_no_pass_over_anything() -> None:
    """LISA draws whatever number its loader is asked for. Here the number, the epoch and the seed decide: equally at random, but a
    run can be resumed and shared out. The named option ``draw: laps`` goes over the pictures instead."""
    found = schedule(groups={"a": Group(1, ("refer",))}, sources={"refer": source("texts", [1] * 300)}, length=300)
    assert found.samples == 300
    assert len(found) == 150
    seen = Counter(found.sample(0, number)[0][1] for number in range(300))
    assert 0.55 < len(seen) / 300 < 0.72  # 1 - 1/e of them: some come several times and some never
    laps = schedule(
        groups={"a": Group(1, ("refer",))}, sources={"refer": source("texts", [1] * 300)}, length=300, draw="laps"
    )
    assert len({laps.sample(0, number)[0][1] for number in range(300)}) == 300


def test_behaviour_03_a_set_then_what_its_family_counts_each_equally_likely() -> None:
    """Label files, image ids, images with a ref, images of ReasonSeg; but of conversations the records, and not their pictures."""
    sizes = {
        "maps": ("semantic", [8, 1, 4]),
        "paco": ("object", [2, 9]),
        "refer": ("refer", [4, 1]),
        "talk": ("vqa", [1, 3, 2]),
    }
    sources = {name: source(POOLS.get(kind, "texts"), targets) for name, (kind, targets) in sizes.items()}
    found = schedule(sources, {"all": Group(1, tuple(sizes))}, length=12000)
    pictures: dict[str, Counter[int]] = {name: Counter() for name in sizes}
    for number in range(12000):
        at, image, _, _ = found.sample(0, number)[0]
        pictures[list(sizes)[at]][image // 2] += 1
    for name, counts in pictures.items():
        whole = counts.total()
        assert whole / 12000 == pytest.approx(1 / 4, abs=0.02)
        weights = sizes[name][1] if name == "talk" else [1] * len(sizes[name][1])
        for unit, weight in enumerate(weights):
            assert counts[unit] / whole == pytest.approx(weight / sum(weights), abs=0.03)


def test_behaviour_07_annotations_of_objects_and_parts_are_drawn_and_not_names() -> None:
    """Two questions of a picture may have the same words and other masks: each annotation is a target of its own."""
    assert POOLS["object"] == POOLS["part"] == "targets"
    found = schedule({"paco": source("targets", [5])}, {"a": Group(1, ("paco",))}, length=3000)
    pairs: Counter[tuple[int, ...]] = Counter()
    for number in range(3000):
        rows = found.sample(0, number)
        assert len({target for _, _, target, _ in rows}) == len(rows) == 3
        pairs[tuple(sorted(target for _, _, target, _ in rows))] += 1
    assert len(pairs) == 10  # 3 of 5, whatever they are called
    assert max(pairs.values()) / min(pairs.values()) < 1.5


def asked_of(found: MixtureSchedule, count: int) -> list[list[tuple[int, int]]]:
    return [[(image, target) for _, image, target, _ in found.sample(0, number)] for number in range(count)]


PREMISES = {"fp": source("texts", [3, 2, 2, 1], 2, "TFFTTFFT")}
"""Pictures with both, with true, with false and with one true premise."""
IS_FALSE = {(0, 1), (0, 2), (4, 0), (4, 1)}


@pytest.mark.parametrize("draw", ["released", "laps"])
def test_questions_with_a_false_premise_are_left_out_unless_a_group_asks_for_them(draw: str) -> None:
    samples = asked_of(schedule(PREMISES, {"a": Group(1, ("fp",))}, length=900, draw=draw), 900)
    assert not IS_FALSE & {row for rows in samples for row in rows}
    assert {image for rows in samples for image, _ in rows} == {0, 2, 6}  # the third shows nothing that is asked
    assert all(len(rows) == (2 if rows[0][0] in (0, 6) else 3) for rows in samples)  # texts of the true ones alone


@pytest.mark.parametrize("draw", ["released", "laps"])
def test_pooled_and_redrawn_false_premises(draw: str) -> None:
    pooled = asked_of(schedule(PREMISES, {"a": Group(1, ("fp",), "pooled")}, length=900, draw=draw), 900)
    assert {row for rows in pooled for row in rows} >= IS_FALSE
    assert any(set(rows) <= IS_FALSE for rows in pooled)
    redrawn = asked_of(schedule(PREMISES, {"a": Group(1, ("fp",), "redrawn")}, length=900, draw=draw), 900)
    assert all(set(rows) - IS_FALSE for rows in redrawn)
    assert {row for rows in redrawn for row in rows} & IS_FALSE == {(0, 1), (0, 2)}


def test_a_share_of_the_samples_asks_for_nothing_that_is_there() -> None:
    """SESAME: of ReasonSeg 15 % of the pictures are asked with false premises alone, 85 % with none."""
    samples = asked_of(schedule(PREMISES, {"a": Group(1, ("fp",), 0.15)}, length=4000), 4000)
    false = [rows for rows in samples if set(rows) <= IS_FALSE]
    assert len(false) / 4000 == pytest.approx(0.15, abs=0.02)
    assert all(not set(rows) & IS_FALSE for rows in samples if rows not in false)
    laps = asked_of(schedule(PREMISES, {"a": Group(1, ("fp",), 0.15)}, length=400, draw="laps"), 400)
    assert Counter(rows[0][0] for rows in laps) == {0: 100, 2: 100, 4: 100, 6: 100}


def test_pictures_without_a_false_premise_draw_as_if_there_were_none() -> None:
    """What a run was trained on does not change as a data set says of each target whether it is there."""
    targets = int(SOURCES["refer"].targets.sum())
    told = {**SOURCES, "refer": source("texts", [2, 1], [3, 3, 2], "T" * targets)}
    one, other = schedule(), schedule(told)
    assert [one.sample(1, n) for n in range(300)] == [other.sample(1, n) for n in range(300)]
    assert PREMISES["fp"].filled(TRUE).tolist() == [0, 1, 3]
    assert PREMISES["fp"].filled(FALSE).tolist() == [0, 2]


def test_what_was_drawn_is_counted_up_to_where_the_schedule_stands() -> None:
    one = schedule(length=41, tail="drop")  # the last is dropped: a batch has two
    assert sum(found["samples"] for found in one.drawn(2).values()) == 80
    steps = list(one.steps())
    rows = [step.samples for step in steps[:7]]
    for step in steps[:7]:
        one.advance(step)
    found = one.drawn_so_far()
    assert sum(of_it["samples"] for of_it in found.values()) == 14
    assert sum(of_it["questions"] for of_it in found.values()) == sum(len(samples.image) for samples in rows)
    shown = {(at, image) for samples in rows for at, image in zip(samples.source, samples.image, strict=True)}
    assert sum(of_it["images"] for of_it in found.values()) == len(shown)


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


@pytest.mark.parametrize(
    "how",
    [
        {"draw": "laps"},
        {"questions": 2},
        {"groups": {**GROUPS, "refer_seg": Group(3, ("refer",), "pooled")}},
        {"groups": {"all": Group(4, tuple(SOURCES)), "none": Group(0, ())}},
    ],
)
def test_a_state_of_another_mixture_is_refused_within_an_epoch_alone(how: dict[str, Any]) -> None:
    one = schedule(length=40)
    whole = json.loads(json.dumps(one.state_dict()))
    one.advance(next(iter(one.steps())))
    state = json.loads(json.dumps(one.state_dict()))
    other = schedule(length=40, **how)
    before = list(other.steps())
    with pytest.raises(StoreError, match="it can change at the end of an epoch only|they can change"):
        other.load_state_dict(state)
    assert list(other.steps()) == before
    other.load_state_dict(whole)
    same = schedule(length=40)
    same.load_state_dict(state)
    assert (same.epoch, same.position) == (one.epoch, one.position)


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
        (
            {"groups": {name: Group(1, one.of, 0.5) for name, one in GROUPS.items()}},
            "with absent 0.5, but no question with a f",
        ),
        ({"groups": {"a": Group(1, ("maps",))}}, r"found groups of \['maps'\], expected each of"),
    ],
)
def test_what_does_not_fit_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schedule(**how)


@pytest.mark.parametrize("absent", [1.5, -0.1, "all"])
def test_a_share_of_false_premises_that_is_none_is_refused(absent: float | str) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 to 1 or one of pooled, redrawn"):
        Group(1, ("fp",), absent)


def test_a_group_without_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="group g has a weight of 1, but no question"):
        schedule({"maps": source("targets", [0, 0])}, {"g": Group(1, ("maps",))})


def flagged(one: Source, **flags: list[int]) -> Source:
    """The source with pictures, by position, that failed or are unlisted."""
    count = len(one.image)
    found = {name: np.isin(np.arange(count), at) for name, at in flags.items()}
    return replace(one, **found)


@pytest.mark.parametrize("draw", ["released", "laps"])
def test_one_more_failed_picture_changes_only_the_samples_that_drew_it(draw: str) -> None:
    broken = {name: flagged(one, failed=[1]) if name in ("maps", "talk") else one for name, one in SOURCES.items()}
    before, after = schedule(draw=draw), schedule(broken, draw=draw)
    changed = 0
    for number in range(600):
        rows, now = before.sample(0, number), after.sample(0, number)
        name = list(SOURCES)[rows[0][0]]
        if name in ("maps", "talk") and rows[0][1] == 2:
            changed += 1
            assert (list(SOURCES)[now[0][0]], now[0][1]) not in (("maps", 2), ("talk", 2))
        else:
            assert now == rows
    assert changed


def test_pictures_that_are_not_listed_are_drawn_all_the_same_and_named() -> None:
    lacking = {**SOURCES, "parts": flagged(SOURCES["parts"], unlisted=[3])}
    found = schedule(lacking)
    assert [found.sample(0, number) for number in range(300)] == [schedule().sample(0, number) for number in range(300)]
    assert found.unlisted((0, number) for number in range(300)) == {"parts": [6]}
    assert schedule().unlisted((0, number) for number in range(300)) == {}


def test_a_group_whose_every_picture_failed_is_refused() -> None:
    broken = {"refer": flagged(SOURCES["refer"], failed=[0, 1])}
    with pytest.raises(ValueError, match="group a has a weight of 1, but no question"):
        schedule(broken, {"a": Group(1, ("refer",))})
