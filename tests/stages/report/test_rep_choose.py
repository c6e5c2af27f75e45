"""Which questions are shown."""

from __future__ import annotations

from stages.report.choose import choose


def scores(*values: float) -> dict[tuple[str, int], float]:
    return {(f"q{number}", 0): value for number, value in enumerate(values)}


def names(found: dict[tuple[str, int], list[str]]) -> dict[str, list[str]]:
    return {key[0]: why for key, why in found.items()}


def test_the_worst_the_best_and_some_between() -> None:
    found = choose({"a": scores(0.9, 0.1, 0.5, 0.0, 1.0, 0.6, 0.4, 0.3)}, 6)
    assert names(found) == {
        "q3": ["worst of a"],
        "q1": ["worst of a"],
        "q7": ["middle of a"],
        "q5": ["middle of a"],
        "q0": ["best of a"],
        "q4": ["best of a"],
    }


def test_all_of_a_small_split_and_none_of_an_empty_one() -> None:
    assert list(names(choose({"a": scores(0.5, 0.2)}, 6))) == ["q1", "q0"]
    assert list(names(choose({"a": scores(0.5, 0.2)}, 1))) == ["q1"]
    assert choose({"a": {}}, 6) == {}
    for count in range(1, 12):
        assert len(choose({"a": scores(*(0.1 * k for k in range(9)))}, count)) == min(count, 9)


def test_equal_ones_are_taken_in_order_and_systems_share_a_question() -> None:
    found = names(choose({"a": scores(0, 0, 0, 1, 1), "b": scores(0, 1, 1, 1, 0)}, 2))
    assert found == {"q0": ["worst of a", "worst of b"], "q1": ["best of b"], "q3": ["best of a"]}
