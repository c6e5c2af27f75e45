"""Tables and JSON say what was scored, and mark what was only quoted."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from stages.evaluate.metrics import METRICS, Samples
from stages.evaluate.protocol_figures import headings
from stages.evaluate.published import Published, datasets, published
from stages.evaluate.tables import GROUPS, TITLES, Estimate, as_json, as_markdown, summarise


def samples(count: int = 12, **fields: object) -> Samples:
    rng = np.random.default_rng(0)
    columns = {name: rng.random(count) for name in Samples.__dataclass_fields__}
    columns |= {"image_index": np.arange(count) // 2, "exists": np.arange(count) % 3 > 0}
    columns |= {"is_sentence": np.arange(count) % 2 > 0, "rejected": (np.arange(count) % 4 == 0).astype(float)}
    columns |= {"empty": (np.arange(count) % 5 == 0).astype(float), "protocol_exists": columns["exists"].astype(float)}
    columns |= {name: np.full(count, value) if np.isscalar(value) else value for name, value in fields.items()}
    return Samples(**columns)


def test_groups_are_the_samples_they_are_named_after() -> None:
    found = summarise({"a": samples()}, 50, 0)
    assert list(found) == list(GROUPS) == ["all", "short", "long", "existing", "empty"]
    iou = samples().iou
    expected = {
        "all": iou,
        "short": iou[::2],
        "long": iou[1::2],
        "existing": iou[np.arange(12) % 3 > 0],
        "empty": iou[::3],
    }
    for group, values in expected.items():
        estimate = found[group]["a"]["miou_per_sample"]
        assert estimate.value == pytest.approx(values.mean())
        assert estimate.samples == len(values)
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low < estimate.high


def test_refusal_is_the_mean_of_n_acc_and_t_acc() -> None:
    found = summarise({"a": samples()}, 200, 0)["all"]["a"]
    assert found["refusal"].value == (found["n_acc"].value + found["t_acc"].value) / 2
    assert found["refusal"].high - found["refusal"].low < found["n_acc"].high - found["n_acc"].low
    assert found["refusal"].samples == 12


def test_what_a_system_lacks_and_groups_without_samples_are_absent() -> None:
    found = summarise({"a": samples(f1=math.nan, exists=True), "b": samples(exists=True)}, 20, 0)
    assert list(found) == ["all", "short", "long", "existing"]
    assert "f1" not in found["all"]["a"]
    assert "f1" in found["all"]["b"]
    assert "n_acc" not in found["all"]["a"]
    assert "refusal" not in found["all"]["a"]
    lines = as_markdown(found).splitlines()
    row = lines[lines.index("| system | precision | recall | F1 | accuracy |") + 2]
    assert row.startswith("| a |")
    assert row.split("|")[4].strip() == ""


def test_every_metric_has_a_title() -> None:
    assert set(METRICS) | {"refusal", *headings()} == set(TITLES)


def test_json_is_json() -> None:
    found = summarise({"a": samples(), "b": samples(iou=0.25)}, 20, 0)
    text = json.dumps(as_json(found), allow_nan=False)
    assert json.loads(text)["all"]["b"]["miou_per_sample"] == {"value": 0.25, "low": 0.25, "high": 0.25, "samples": 12}
    lost = {"all": {"a": {"f1": Estimate(0.5, math.nan, math.nan, 1)}}}
    assert as_json(lost)["all"]["a"]["f1"] == {"value": 0.5, "low": None, "high": None, "samples": 1}


def test_markdown_shows_percent_with_intervals_and_marks_the_quoted() -> None:
    estimates = {"miou_per_sample": Estimate(0.5234, 0.481, 0.56, 9), "f1": Estimate(0.25, 0.2, 0.3, 9)}
    quoted = [
        Published("LISA|7B", "LISA, Table 1", "ReasonSeg", "val", "all", {"miou_per_sample": 44.4, "ciou": 46.0}),
        Published("ELISA", "slides", "ReasonSeg", "val", "all", {"f1": 32.4}, "proposals+gt"),
        Published("LISA-short", "LISA", "ReasonSeg", "val", "short", {"miou_per_sample": 1.0}),
    ]
    lines = as_markdown({"all": {"mine": estimates}}, quoted).splitlines()
    assert "| system | mean IoU (LISA's gIoU) |" in lines
    assert "| mine | 52.3 [48.1, 56.0] |" in lines
    assert "| LISA\\|7B (published: LISA, Table 1) | 44.4 |" in lines
    assert "| ELISA (published: slides, proposals+gt) | 32.4 |" in lines
    assert not any("LISA-short" in line for line in lines)
    widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("|")}
    assert widths == {3}


def test_what_no_system_has_is_quoted_all_the_same() -> None:
    """The choice among annotated instances, where these were not offered."""
    quoted = [Published("ELISA", "slides", "ReasonSeg", "val", "all", {"elisa_f1": 32.4}, "proposals+gt")]
    lines = as_markdown({"all": {"mine": {"f1": Estimate(0.25, 0.2, 0.3, 9)}}}, quoted).splitlines()
    place = lines.index("| system | elisa_f1 |")
    assert lines[place + 2 :] == ["| ELISA (published: slides, proposals+gt) | 32.4 |"]
    assert "mine" not in "".join(lines[place:])


def test_published_rows() -> None:
    val, test = published("reasonseg", "val"), published("Reason_Seg", "test")
    assert {row.group for row in val} == {"all"}
    assert {row.group for row in test} == {"all", "short", "long"}
    figures = {(row.system, row.group, row.setting): row.percent for row in val + test if row.split == "val"}
    assert figures["LISA-7B", "all", ""] == {"miou_per_sample": 44.4, "ciou": 46.0}
    assert figures["LLM-Seg, 20 epochs", "all", ""] == {"miou_per_sample": 55.4, "ciou": 45.6, "nciou": 51.0}
    assert {"elisa_iou": 27.7, "elisa_giou": 13.8, "elisa_ciou": 36.8} in [row.percent for row in val]
    assert figures["Rand50", "all", "proposals+gt"] == {"elisa_precision": 6.1, "elisa_recall": 50, "elisa_f1": 10.2}
    short = {row.system: row.percent for row in test if row.group == "short"}
    assert short["LISA-13B-LLaVA1.5 (ft)"] == {"miou_per_sample": 55.4, "ciou": 50.6}
    assert short["LLaVA1.5-7B + OVSeg"] == {"miou_per_sample": 24.2, "ciou": 18.7}
    assert len(published("llmseg40k", "val")) == 5
    assert published("demo", "val") == []
    assert datasets() == ["ReasonSeg", "LLM-Seg40K"]
    for row in val + test:
        assert row.source
        assert set(row.percent) <= set(TITLES)
        assert row.group in GROUPS
        assert all(0 < figure < 100 for figure in row.percent.values())
