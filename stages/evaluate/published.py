"""Figures that the papers and slides print, as data. They are quoted, not measured here; tables mark them as published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from stages.evaluate.metrics import METRICS
from stages.evaluate.protocols import PROTOCOLS

MARK = "published"
"""What every table writes next to these figures."""

_LISA = "LISA, arXiv 2308.00692"
_LLM_SEG = "LLM-Seg, arXiv 2404.08767"
_ELISA = "ELISA, project slides"

# Table 1 of LISA's later version, ReasonSeg: val all, test short, long and all; "gIoU" (mean per-sample IoU) and cIoU each.
_LISA_TABLE_1 = """
OVSeg                  28.5 18.6  18.0 15.5  28.7 22.5  26.1 20.8
GRES                   22.4 19.9  17.6 15.0  22.6 23.8  21.3 22.0
X-Decoder              22.6 17.9  20.4 11.6  22.2 17.5  21.7 16.3
SEEM                   25.5 21.2  20.1 11.5  25.6 20.8  24.3 18.7
Grounded-SAM           26.0 14.5  17.8 10.8  22.4 18.6  21.3 16.4
LISA-7B                44.4 46.0  37.6 34.4  36.6 34.7  36.8 34.1
LISA-7B (ft)           52.9 54.0  40.6 40.6  49.4 51.0  47.3 48.4
LISA-13B               48.9 46.9  39.9 43.3  46.4 46.5  44.8 45.8
LISA-13B (ft)          56.2 62.9  44.3 42.0  54.0 54.3  51.7 51.1
LLaVA1.5-7B + OVSeg    38.2 23.5  24.2 18.7  44.6 37.1  39.7 31.8
LISA-7B-LLaVA1.5       53.6 52.3  47.1 48.5  49.2 48.9  48.7 48.8
LISA-7B-LLaVA1.5 (ft)  61.3 62.9  48.3 46.3  57.9 59.7  55.6 56.9
LLaVA1.5-13B + OVSeg   37.9 26.4  27.1 19.4  46.1 40.6  41.5 34.1
LISA-13B-LLaVA1.5      57.7 60.3  50.8 50.0  54.7 50.9  53.8 50.8
LISA-13B-LLaVA1.5 (ft) 65.0 72.9  55.4 50.6  63.2 65.3  61.3 62.2
"""

# Table 2 of the same, cIoU: refCOCO val, testA, testB, refCOCO+ val, testA, testB, refCOCOg val and test (umd); "-": no figure.
_LISA_TABLE_2 = """
MCN                               62.4 64.2 59.7  50.6 55.0 44.7  49.2 49.4
VLT                               67.5 70.5 65.2  56.3 61.0 50.1  55.0 57.7
CRIS                              70.5 73.2 66.1  62.3 68.1 53.7  59.9 60.4
LAVT                              72.7 75.8 68.8  62.1 68.4 55.1  61.2 62.1
ReLA                              73.8 76.5 70.2  66.0 71.0 57.7  65.0 66.0
X-Decoder                            -    -    -     -    -    -  64.6    -
SEEM                                 -    -    -     -    -    -  65.7    -
LISA-7B                           74.1 76.5 71.1  62.4 67.4 56.5  66.4 68.5
LISA-7B (fine-tuned on ReferSeg)  74.9 79.1 72.3  65.1 70.8 58.1  67.9 70.6
"""
_LISA_PLACES_2 = (
    *(("refCOCO", split) for split in ("val", "testA", "testB")),
    *(("refCOCO+", split) for split in ("val", "testA", "testB")),
    *(("refCOCOg", split) for split in ("val", "test")),
)

# LISA's ablations on ReasonSeg val, all with LISA-7B (ft): what differs, "gIoU" (mean per-sample IoU) and cIoU.
_LISA_ABLATIONS = (
    ("LISA-7B (ft), SAM from scratch", f"{_LISA}, Table 4", 35.9, 44.6, None),
    ("LISA-7B (ft), without rephrasing", f"{_LISA}, Table 4", 50.7, 51.1, None),
    ("LISA-7B (ft), without ADE20K", f"{_LISA}, Table 5", 48.9, 53.5, None),
    ("LISA-7B (ft), without COCO-Stuff", f"{_LISA}, Table 5", 48.5, 50.8, None),
    ("LISA-7B (ft), without parts", f"{_LISA}, Table 5", 46.7, 50.9, None),
    ("LISA-7B (ft), without ADE20K and COCO-Stuff", f"{_LISA}, Table 5", 46.6, 46.7, None),
    ("LISA-7B (ft), without semantic segmentation", f"{_LISA}, Table 5", 30.4, 20.4, None),
    ("LISA-7B (ft), without referring segmentation", f"{_LISA}, Table 5", 47.7, 51.1, None),
)

# System, source, and "gIoU" (mean per-sample IoU) and cIoU on the whole of a split; ncIoU where it is printed.
_REASONSEG_VAL = (
    ("LISA-7B, Mask2Former-Swin-L backbone", _LISA, 42.4, 38.8, None),
    ("LISA-7B, Mask2Former-Swin-L backbone (ft)", _LISA, 50.7, 52.3, None),
    ("LISA-7B, SAM with LoRA", _LISA, 41.5, 37.3, None),
    ("LISA-7B, SAM with LoRA (ft)", _LISA, 51.8, 51.9, None),
    *_LISA_ABLATIONS,
    ("LLaVA + GroundingSAM", _LLM_SEG, 47.4, 34.6, 34.4),
    ("LLM-Seg, zero-shot", _LLM_SEG, 47.4, 35.4, 43.5),
    ("LLM-Seg, 10 epochs", _LLM_SEG, 52.3, 47.5, 48.8),
    ("LLM-Seg, 20 epochs", _LLM_SEG, 55.4, 45.6, 51.0),
    ("LLM-Seg, selection: top 1", f"{_LLM_SEG}, Table 3", 49.6, 35.4, None),
    ("LLM-Seg, selection: IoP > 0.5", f"{_LLM_SEG}, Table 3", 52.3, 47.5, None),
    ("LLM-Seg, selection: top 1 or IoP > 0.5", f"{_LLM_SEG}, Table 3", 53.8, 42.2, None),
    ("LLM-Seg, selection: top 5 and IoP > 0.5", f"{_LLM_SEG}, Table 3", 51.4, 43.6, None),
    ("LLM-Seg, masks from CLIP ConvNeXt-L", f"{_LLM_SEG}, Table 4", 49.3, 44.5, None),
    ("LLM-Seg, masks from SAM ViT-H", f"{_LLM_SEG}, Table 4", 46.2, 44.7, None),
)
_LLMSEG40K_VAL = (
    ("GRES", _LLM_SEG, 14.16, 15.90, None),
    ("LISA, zero-shot", _LLM_SEG, 33.19, 37.97, None),
    ("LISA (ft)", _LLM_SEG, 37.59, 48.49, None),
    ("LLM-Seg, zero-shot", _LLM_SEG, 36.02, 39.42, None),
    ("LLM-Seg (ft)", _LLM_SEG, 45.47, 54.18, None),
)

# gRefCOCO val by GSVA's protocol: gIoU and cIoU, as its README prints them.
_GSVA = "LeapLabTHU/GSVA, README"
_GREFCOCO_VAL = (("GSVA-7B, pretrained", 63.5, 61.7), ("GSVA-7B, GRES fine-tuned", 66.4, 63.2))

# Split, system, precision, recall, F1. Candidates are ground truth and SAM's proposals.
_ELISA_SELECTION = (
    ("val", "ELISA", 33.2, 39.0, 32.4),
    ("val", "Rand50", 6.1, 50.0, 10.2),
    ("val", "RandClass", 3.9, 3.9, 4.0),
    ("test", "ELISA", 30.5, 34.5, 30.1),
    ("test", "Rand50", 4.5, 50.0, 7.8),
    ("test", "RandClass", 3.7, 4.1, 3.9),
)
# Setting, cIoU (without misses), "gIoU" (hull), "IoU" (mean per sample): all as released, at 1024 x 1024.
_ELISA_SEGMENTATION = (("proposals", 15.3, 6.2, 12.5), ("proposals+gt", 36.8, 13.8, 27.7))


def published(dataset: str, split: str, protocol: str | None = None) -> list[Published]:
    """The rows printed for a split of a data set; names are compared without case, ``-``, ``_`` and spaces, with + as "plus".

    Args:
        protocol: its figures are wanted, under its names; None: the common figures.
    """
    found = [row for row in _rows() if (_plain(row.dataset), row.split) == (_plain(dataset), split)]
    under = [replace(row, percent=_under(protocol, row.percent)) for row in found]
    return [row for row in under if row.percent]


def datasets() -> list[str]:
    """The data sets for which rows with common figures are printed."""
    return list(dict.fromkeys(row.dataset for row in _rows() if _under(None, row.percent)))


def _under(protocol: str | None, percent: Mapping[str, float]) -> dict[str, float]:
    """The printed figures that can stand next to those of a protocol, under its names."""
    if protocol is None:
        return {name: figure for name, figure in percent.items() if name in METRICS}
    names = dict(PROTOCOLS[protocol].quotes)
    own = {name: figure for name, figure in percent.items() if name.startswith(f"{protocol}_")}
    return own | {f"{protocol}_{names[name]}": figure for name, figure in percent.items() if name in names}


def _plain(name: str) -> str:
    return name.lower().replace("+", "plus").replace("-", "").replace("_", "").replace(" ", "")


def _rows() -> Iterator[Published]:
    for line in _LISA_TABLE_1.strip().splitlines():
        words = line.split()
        system, figures = " ".join(words[:-8]), [float(word) for word in words[-8:]]
        places = (("val", "all"), ("test", "short"), ("test", "long"), ("test", "all"))
        for number, (split, group) in enumerate(places):
            miou, ciou = figures[2 * number : 2 * number + 2]
            yield Published(system, f"{_LISA}, Table 1", "ReasonSeg", split, group, _percent(miou, ciou, None))
    yield Published(
        "LISA-7B (ft), train and val", f"{_LISA}, Table 6", "ReasonSeg", "test", "all", _percent(54.0, 54.9, None)
    )
    for line in _LISA_TABLE_2.strip().splitlines():
        words = line.split()
        system = " ".join(words[:-8])
        for (dataset, split), figure in zip(_LISA_PLACES_2, words[-8:], strict=True):
            if figure != "-":
                yield Published(system, f"{_LISA}, Table 2", dataset, split, "all", {"refcoco_ciou": float(figure)})
    for system, giou, ciou in _GREFCOCO_VAL:
        yield Published(system, _GSVA, "gRefCOCO", "val", "all", {"gsva_giou": giou, "gsva_ciou": ciou})
    for dataset, rows in (("ReasonSeg", _REASONSEG_VAL), ("LLM-Seg40K", _LLMSEG40K_VAL)):
        for system, source, miou, ciou, nciou in rows:
            yield Published(system, source, dataset, "val", "all", _percent(miou, ciou, nciou))
    for split, system, precision, recall, f1 in _ELISA_SELECTION:
        metrics = {"elisa_precision": precision, "elisa_recall": recall, "elisa_f1": f1}
        yield Published(system, _ELISA, "ReasonSeg", split, "all", metrics, "proposals+gt")
    for setting, ciou, hull, miou in _ELISA_SEGMENTATION:
        metrics = {"elisa_iou": miou, "elisa_giou": hull, "elisa_ciou": ciou}
        yield Published("ELISA", _ELISA, "ReasonSeg", "val", "all", metrics, setting)


def _percent(miou: float, ciou: float, nciou: float | None) -> dict[str, float]:
    metrics = {"miou_per_sample": miou, "ciou": ciou}
    return metrics if nciou is None else {**metrics, "nciou": nciou}


@dataclass(frozen=True)
class Published:
    """One printed row.

    Args:
        system, source: whose figures, and where they are printed.
        dataset, split, group: of what; the group as in ``tables.GROUPS``.
        percent: our name of the metric, or of a protocol's figure, -> the figure as printed, in percent.
        setting: what an ELISA row chose from; empty for others.
    """

    system: str
    source: str
    dataset: str
    split: str
    group: str
    percent: Mapping[str, float]
    setting: str = ""
