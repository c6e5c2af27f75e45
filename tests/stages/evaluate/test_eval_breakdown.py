"""Figures by size, number of instances and kind of question."""

from __future__ import annotations

import numpy as np
import pytest

from stages.evaluate.breakdown import as_markdown, breakdowns
from stages.evaluate.metrics import Samples

AREA = np.array([1, 1023, 1024, 9215, 9216, 0], float)


def samples(**fields: object) -> Samples:
    count = len(AREA)
    columns = {name: np.zeros(count) for name in Samples.__dataclass_fields__}
    columns |= {"image_index": np.arange(count), "exists": AREA > 0, "is_sentence": AREA > 0}
    columns |= {"area_px": AREA, "instances": np.array([1, 1, 2, 2, 3, 0.0]), "union_px": np.ones(count)}
    columns |= {"iou": np.array([0, 1, 0.25, 0.75, 0.5, 1]), "kind": np.array([0, 0, 0, 0, 1, 1.0])}
    columns |= {"protocol_iou": columns["iou"], "protocol_union_px": np.ones(count)}
    return Samples(**{**columns, **fields})


def test_groups_end_where_they_are_said_to() -> None:
    found = breakdowns({"a": samples()}, ("refer", "false_premise"), 20, 0)
    assert list(found) == ["size of the target", "number of instances", "kind of question"]
    counts = {
        name: {
            group: (own["a"]["miou_per_sample"].samples, own["a"]["miou_per_sample"].value)
            for group, own in groups.items()
        }
        for name, groups in found.items()
    }
    assert counts == {
        "size of the target": {
            "small (below 32 x 32 px)": (2, 0.5),
            "medium (below 96 x 96 px)": (2, 0.5),
            "large": (1, 0.5),
        },
        "number of instances": {"1": (2, 0.5), "2": (2, 0.5), "3 and more": (1, 0.5)},
        "kind of question": {"refer": (4, 0.5), "false_premise": (2, 0.75)},
    }


def test_one_group_is_no_breakdown() -> None:
    one = samples(area_px=np.full(6, 5.0), instances=np.ones(6), kind=np.zeros(6))
    assert breakdowns({"a": one}, ("refer",), 20, 0) == {}
    assert as_markdown({}) == ""


@pytest.mark.parametrize(
    ("protocol", "headings"),
    [(None, "mean IoU (LISA's gIoU) | cIoU"), ("refcoco", "cIoU | mIoU"), ("hub", "gIoU")],
)
def test_a_table_has_the_main_figures(protocol: str | None, headings: str) -> None:
    both = {"a": samples(), "b|c": samples()}
    text = as_markdown(breakdowns(both, ("refer", "false_premise"), 20, 0, protocol))
    assert f"| size of the target | system | questions | {headings} |" in text
    assert "| large | b\\|c | 1 | " in text
    assert text.count("## By ") == 3
