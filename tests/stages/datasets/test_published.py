"""Counts against those published."""

from __future__ import annotations

import pytest

from stages.datasets.published import PUBLISHED, Counts, verdict


def test_a_verdict_has_the_release_with_its_sources() -> None:
    whole = verdict("refcoco", "unc", "train", Counts(16994, 42404, 120624)).against
    assert whole is not None
    assert whole.sources == "VVV"
    assert whole.where == "tensorflow/datasets ref_coco, AI-Application-and-Integration-Lab/SAM4MLLM"
    part = verdict("refcoco", "unc", "val", Counts(1500, 3811, 10834)).against
    assert part is not None
    assert part.sources == "VVS"


def test_what_no_source_states_is_not_compared() -> None:
    given = verdict("refcoco+", "unc", "val", Counts(1500, 3805, 1))
    assert (given.state, given.text) == ("equal", "1 500 images, 3 805 questions as published")


def test_counts_that_differ_say_by_how_many() -> None:
    given = verdict("refcocog", "umd", "test", Counts(2600, 5000, None))
    assert (given.state, given.text) == ("differs", "5 000 questions where 5 023 are published (23 fewer)")
    both = verdict("refcoco", "unc", "testA", Counts(749, 1976, 5657))
    assert both.text == (
        "749 images where 750 are published (1 fewer), 1 976 questions where 1 975 are published (1 more)"
    )


@pytest.mark.parametrize(
    ("name", "split", "found", "state", "release"),
    [
        ("grefcoco", "all", Counts(None, None, 278232), "release", "before 2023-08-29"),
        ("grefcoco", "all", Counts(19994, None, 259859), "equal", "of 2023-08-29"),
        ("refcoco", "all", Counts(19994, 50000, 142209), "release", "as papers state it"),
        ("refcoco", "val+testA+testB", Counts(3000, 7596, 21586), "equal", ""),
    ],
)
def test_a_release_is_found_by_its_counts(name: str, split: str, found: Counts, state: str, release: str) -> None:
    given = verdict(name, "unc", split, found)
    assert given.against is not None
    assert (given.state, given.against.release) == (state, release)


@pytest.mark.parametrize(("name", "split_by"), [("refclef", "berkeley"), ("ref-zom", "final"), ("fprefcoco", "unc")])
def test_a_set_that_is_not_published_by_count_says_so(name: str, split_by: str) -> None:
    given = verdict(name, split_by, "train", Counts(1, 2, 3))
    assert (given.state, given.text) == ("unknown", "no published count is known")


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
