"""Named protocols: one entry for each published evaluation, with how it asks and scores.

A protocol says which texts are asked, whether the answer's text is given, the frame, how ignored pixels and empty targets
count, and which sums are printed. For predictions from elsewhere it fixes only the scoring. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from stages.evaluate import protocol_rules as rules
from stages.evaluate.cases import Question
from stages.predictions import Prediction

Texts = Literal["first", "every"]
"""Which texts of each target are asked."""

_NATIVE = "size of the image"
_OUT = "leave both masks"
_SENTENCES = ("refer", "grefer")


@dataclass(frozen=True)
class Protocol:
    """One entry of :data:`PROTOCOLS`.

    Args:
        source: whose released code it is, as messages and the table name it.
        texts: which texts of a target are asked; None: those that have answers.
        mode: ``generated`` or ``teacher_forced``; None: the protocol does not fix it.
        score: function that scores a single answer; it is given the name of the data set.
        figures: names in ``protocol_figures.FIGURES``, in the order of the table; the first two are the main ones.
        frame, ignore, empties, sums: in words, for the documentation and the printed table.
        exact: which parts of the original are matched, and which cannot be.
        meant_for: formats of the data sets that the protocol was made for.
        every_of: formats for which every text is asked; for other formats, the first text.
        rejected_with_mask: whether an answer may be rejected and have a mask.
        absent_by_annotation: whether the annotation alone says that a target is absent (else: a target without a pixel is empty).
        usual_of: formats that ``evaluate --all`` scores by this protocol.
        quotes: common figure that papers print -> the figure of this protocol that corresponds to it.
    """

    source: str
    texts: Texts | None
    mode: Literal["generated", "teacher_forced"] | None
    score: Callable[[Question, Prediction, str], dict[str, float]]
    figures: tuple[str, ...]
    frame: str
    ignore: str
    empties: str
    sums: str
    exact: str
    meant_for: tuple[str, ...]
    every_of: tuple[str, ...] = ()
    rejected_with_mask: bool = False
    absent_by_annotation: bool = False
    usual_of: tuple[str, ...] = ()
    quotes: tuple[tuple[str, str], ...] = ()

    def asks(self, data_format: str) -> Texts | None:
        """Which texts of a data set of this format are asked; None: those that have answers."""
        return "every" if data_format in self.every_of else self.texts


_OF_LISA = "IoU is 1 where target and mask are both empty, 0 where only one is"
_SUMS_OF_LISA = "gIoU: mean of IoU over texts; cIoU: sum of intersections / sum of unions"
_NO_EPS = "epsilons are left out"
_GIOU_CIOU = (("miou_per_sample", "giou"), ("ciou", "ciou"))

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "lisa": Protocol(
            "LISA's released validation", "first", "teacher_forced", rules.by_lisa, ("giou", "ciou"),
            _NATIVE, _OUT, _OF_LISA, _SUMS_OF_LISA,
            f"exact on binary masks; overlapping polygons, which LISA sums to 2 and more, are one mask here; {_NO_EPS}",
            ("reasonseg", *_SENTENCES), every_of=_SENTENCES, quotes=_GIOU_CIOU,
        ),
        "per_text": Protocol(
            "LISA's rules on every text", "every", "teacher_forced", rules.by_lisa, ("giou", "ciou"),
            _NATIVE, _OUT, _OF_LISA, _SUMS_OF_LISA, f"a text is a sample, as in lisa; {_NO_EPS}", ("reasonseg",),
        ),
        "hub": Protocol(
            "the hub's copies of ReasonSeg, as Seg-Zero scores them", "first", "generated", rules.by_hub, ("giou",),
            f"{_NATIVE}, the original ignores the EXIF orientation: the same figures", "belong to the target",
            "IoU is 0 where target and mask are both empty", "gIoU: mean of IoU over texts",
            "exact where the copy has the picture as it is; Seg-Zero's script prints gIoU alone", ("reasonseg",),
        ),
        "llmseg": Protocol(
            "LLM-Seg's released validation", "first", "teacher_forced", rules.by_lisa, ("giou", "ciou", "nciou"),
            f"{_NATIVE}; ncIoU: both masks nearest to 1024 x 1024", _OUT, _OF_LISA,
            f"{_SUMS_OF_LISA}; ncIoU: cIoU at 1024 x 1024", f"exact; {_NO_EPS}", ("reasonseg",),
            quotes=(*_GIOU_CIOU, ("nciou", "nciou")),
        ),
        "llmseg40k": Protocol(
            "LLM-Seg on LLM-Seg40K", "every", "teacher_forced", rules.by_lisa, ("giou", "ciou"),
            _NATIVE, _OUT, _OF_LISA, _SUMS_OF_LISA,
            "not reproducible: the released validator scores 100 shuffled samples against files that are not released; here the "
            "whole split is scored", ("llmseg40k",), quotes=_GIOU_CIOU,
        ),
        "refcoco": Protocol(
            "LAVT's test, which most papers on refCOCO share", "every", None, rules.by_refcoco,
            ("ciou", "miou", "p5", "p6", "p7", "p8", "p9"),
            _NATIVE, f"{_OUT} (the sets have none)", "IoU is 0 where target and mask are both empty",
            "cIoU = oIoU: sum of intersections / sum of unions over sentences; mIoU: mean of IoU over sentences; P@X: share of "
            "sentences with an IoU of at least X",
            "exact at the picture's size; some published rows are at the network's input size", ("refer",),
            usual_of=("refer",),
        ),
        "gres": Protocol(
            "ReLA's released evaluation (GRES)", "every", None, rules.by_gres,
            ("giou", "ciou", "n_acc", "t_acc", "pr7", "pr8", "pr9"),
            _NATIVE, f"{_OUT} (the sets have none)",
            "absent: rejected IoU 1 and in no sum, else IoU 0 and its area joins the unions; existing and rejected: IoU 0, the "
            "union of mask and target joins the unions",
            "gIoU over all; cIoU; N-acc: rejected of absent; T-acc: not rejected of existing; Pr@X over existing targets",
            "exact, given what was rejected; where that is not known, an empty mask is a rejection", ("grefer",),
            rejected_with_mask=True, absent_by_annotation=True, usual_of=("grefer",),
        ),
        "gsva": Protocol(
            "GSVA's released code", None, "teacher_forced", rules.by_gsva, ("giou", "ciou", "n_acc", "t_acc"),
            _NATIVE, f"{_OUT} (the sets have none)",
            "a target without a pixel: rejected IoU 1, else 0; on gRefCOCO a false alarm's area joins the unions; existing and "
            "rejected: counts with its mask",
            "gIoU over all; cIoU; N-acc; T-acc",
            f"exact in scoring; its questions hold all sentences of an image, which no system here asks; {_NO_EPS}",
            _SENTENCES, rejected_with_mask=True,
        ),
        "sesame": Protocol(
            "SESAME's released evaluation", "every", "generated", rules.by_sesame, ("see", "ciou"),
            _NATIVE, "are background", "an absent target is an empty mask in the same sums",
            "See: share of answers whose mask is empty exactly where the target is absent; cIoU: sum of intersections / sum of "
            "unions, absent targets included",
            f"exact in scoring, {_NO_EPS}; question templates are drawn at random there, and of ReasonSeg it asks the "
            "first text and the first false premise alone", (*_SENTENCES, "reasonseg"), absent_by_annotation=True,
        ),
        "rris": Protocol(
            "RefSegformer's released validation (R-RIS)", "every", None, rules.by_rris,
            ("ref_miou", "ref_oiou", "r", "riou"),
            _NATIVE, f"{_OUT} (the sets have none)",
            "an absent target has no IoU; any mask is a false alarm, whose area is added to the unions of rIoU",
            "mIoU, r and rIoU: mean over refs (a target and its false sentences); oIoU: sums over existing targets; r: share of "
            "false sentences without a mask; rIoU: intersections / (unions + false alarms)",
            "exact except for false alarms, which the original counts at the network's size; refs without false sentences, where "
            "it divides by 0, are left out of r", ("refer",), absent_by_annotation=True,
        ),
    }
)  # fmt: skip
"""Name -> protocol."""


def usual_of(data_format: str) -> str | None:
    """The protocol by which a data set of this format is usually scored; None: by the common figures."""
    return next((name for name, protocol in PROTOCOLS.items() if data_format in protocol.usual_of), None)
