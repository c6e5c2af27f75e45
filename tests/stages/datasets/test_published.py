"""Counts against those published."""

from __future__ import annotations

import pytest

from stages.datasets.published import PUBLISHED, Counts, compare, verdict


def test_counts_as_published_name_their_sources() -> None:
    assert compare("refcoco", "unc", ["train"], Counts(16994, 42404, 120624)) == (
        "refcoco (unc) train: as published: 16994 images [V], 42404 refs [V], 120624 sentences [V] "
        "(tensorflow/datasets ref_coco, AI-Application-and-Integration-Lab/SAM4MLLM)"
    )
    assert "[S]" in compare("refcoco", "unc", ["val"], Counts(1500, 3811, 10834))


def test_what_no_source_states_is_not_compared() -> None:
    assert "as published: 1500 images [V], 3805 refs [V] (" in compare(
        "refcoco+", "unc", ["val"], Counts(1500, 3805, 1)
    )


def test_counts_that_differ_say_by_how_many() -> None:
    found = compare("refcocog", "umd", ["test"], Counts(2600, 5000, None))
    assert (
        found
        == "refcocog (umd) test: not as published: 5000 refs, expected 5023 (23 too few) (tensorflow/datasets ref_coco)"
    )
    assert "1 images, expected 750 (749 too few); 1976 refs" in compare(
        "refcoco", "unc", ["testA"], Counts(1, 1976, 5657)
    )


def test_another_release_is_named() -> None:
    found = compare("grefcoco", "unc", ["all"], Counts(None, None, 278232))
    assert "not the current release, but the one before 2023-08-29: 278232 sentences" in found
    assert "as published of 2023-08-29" in compare("grefcoco", "unc", ["all"], Counts(19994, None, 259859))
    assert "as papers state it" in compare("refcoco", "unc", ["all"], Counts(19994, 50000, 142209))


def test_splits_are_counted_together() -> None:
    assert "as published: 21586 sentences [V]" in compare(
        "refcoco", "unc", ["val", "testA", "testB"], Counts(3000, 7596, 21586)
    )


@pytest.mark.parametrize(("name", "split_by"), [("refclef", "berkeley"), ("ref-zom", "final"), ("fprefcoco", "unc")])
def test_a_set_that_is_not_published_by_count_says_so(name: str, split_by: str) -> None:
    assert (
        compare(name, split_by, ["train"], Counts(1, 2, 3)) == f"{name} ({split_by}) train: no published count is known"
    )


def test_the_sums_of_the_table_agree_with_its_cells() -> None:
    """What is published of single splits adds up to what is published of all of them."""
    for name, splits, figure, want in (
        ("refcoco", ("train", "val", "testA", "testB"), "refs", 50000),
        ("refcoco", ("train", "val", "testA", "testB"), "sentences", 142210),
        ("refcoco", ("val", "testA", "testB"), "sentences", 21586),
        ("refcoco+", ("train", "val+testA+testB"), "sentences", 141564),
        ("refcocog", ("train", "val+test"), "sentences", 95010),
        ("grefcoco", ("train", "val+testA+testB"), "sentences", 259859),
    ):
        by = "umd" if name == "refcocog" else "unc"
        assert sum(getattr(PUBLISHED[name, by, split][0].counts, figure) for split in splits) == want


def test_every_number_has_a_source_and_every_source_a_number() -> None:
    for releases in PUBLISHED.values():
        for each in releases:
            values = (each.counts.images, each.counts.refs, each.counts.sentences)
            assert [source in "VS" for source in each.sources] == [value is not None for value in values]


@pytest.mark.parametrize(
    ("split", "found", "state", "text"),
    [
        ("train", Counts(16994, 42404, 120624), "equal", "16 994 images, 42 404 questions, 120 624 texts as published"),
        ("train", Counts(16994, None, None), "equal", "16 994 images as published"),
        (
            "train", Counts(16994, 42400, 120625), "differs",
            "42 400 questions where 42 404 are published (4 fewer), 120 625 texts where 120 624 are published (1 more)",
        ),
        ("train", Counts(24, 50, 99), "sample", "24 images where 16 994 are published (16 970 fewer)"),
        ("train", Counts(None, None, None), "unknown", "no published count is known"),
        ("testC", Counts(1, 2, 3), "unknown", "no published count is known"),
    ],
)  # fmt: skip
def test_a_verdict_compares_what_both_sides_know(split: str, found: Counts, state: str, text: str) -> None:
    given = verdict("refcoco", "unc", split, found)
    assert given.state == state
    assert given.text.startswith(text)
    assert (given.against is None) == (state == "unknown")


def test_a_verdict_names_the_release() -> None:
    assert verdict("grefcoco", "unc", "all", Counts(None, None, 278232)).state == "release"
    new = verdict("grefcoco", "unc", "train", Counts(16994, 78930, 209344))
    assert new.text == "78 930 questions, 209 344 texts as published of 2023-08-29"
    alone = verdict("coco", "", "all", Counts(82783, None, None))
    assert alone.text == "82 783 images as in another release, the one of train2014 alone"
