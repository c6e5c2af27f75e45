"""Rows of papers stand next to the figures that they are of."""

from __future__ import annotations

import pytest

from stages.evaluate.metrics import METRICS
from stages.evaluate.protocol_figures import figures_of
from stages.evaluate.protocols import PROTOCOLS
from stages.evaluate.published import datasets, published


@pytest.mark.parametrize("name", ["refCOCO+", "refcoco_plus", "RefCOCO-plus"])
def test_lisas_table_of_refcoco(name: str) -> None:
    found = {row.system: row.percent for row in published(name, "testA", "refcoco")}
    assert found["LISA-7B"] == {"refcoco_ciou": 67.4}
    assert found["LISA-7B (fine-tuned on ReferSeg)"] == {"refcoco_ciou": 70.8}
    assert "SEEM" not in found
    assert {row.source for row in published(name, "testA", "refcoco")} == {"LISA, arXiv 2308.00692, Table 2"}


def test_it_is_of_every_sentence_so_the_common_figures_do_not_quote_it() -> None:
    assert published("refCOCO", "val") == []
    assert datasets() == ["ReasonSeg", "LLM-Seg40K"]
    assert len(published("refCOCOg", "test", "refcoco")) == 7
    assert len(published("refCOCOg", "val", "refcoco")) == 9


def test_a_protocol_quotes_what_is_its_own() -> None:
    lisa = {(row.system, row.group): row.percent for row in published("ReasonSeg", "val", "lisa")}
    assert lisa["LISA-7B", "all"] == {"lisa_giou": 44.4, "lisa_ciou": 46.0}
    assert lisa["LISA-7B (ft), without rephrasing", "all"] == {"lisa_giou": 50.7, "lisa_ciou": 51.1}
    assert ("ELISA", "all") not in lisa
    llmseg = {row.system: row.percent for row in published("ReasonSeg", "val", "llmseg")}
    assert llmseg["LLM-Seg, 20 epochs"] == {"llmseg_giou": 55.4, "llmseg_ciou": 45.6, "llmseg_nciou": 51.0}
    assert [row.percent for row in published("gRefCOCO", "val", "gsva")] == [
        {"gsva_giou": 63.5, "gsva_ciou": 61.7},
        {"gsva_giou": 66.4, "gsva_ciou": 63.2},
    ]
    assert published("ReasonSeg", "val", "per_text") == published("ReasonSeg", "val", "gres") == []


@pytest.mark.parametrize("protocol", [None, *PROTOCOLS])
def test_every_quoted_figure_is_one_that_is_measured(protocol: str | None) -> None:
    known = set(METRICS if protocol is None else figures_of(protocol))
    places = [
        *(("ReasonSeg", split) for split in ("val", "test")),
        *((name, split) for name in ("refCOCO", "refCOCO+") for split in ("val", "testA", "testB")),
        *(("refCOCOg", split) for split in ("val", "test")),
        *((name, "val") for name in ("gRefCOCO", "LLM-Seg40K")),
    ]
    for dataset, split in places:
        for row in published(dataset, split, protocol):
            assert set(row.percent) <= known
            assert row.percent
