"""How many images, questions (refs) and texts (sentences) the published data sets have, and how counts found compare with them.

A number for which there is no source is left out and not compared. If a set has several releases, they are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_IN_THE_STORE = ("images", "questions", "texts")
_FEW = 10
"""A split with fewer than 1 / _FEW of the published images is taken to be a sample, or the user's own data in the same form."""


@dataclass(frozen=True)
class Counts:
    """What a split, or several together, hold; None: not known."""

    images: int | None
    refs: int | None
    sentences: int | None


@dataclass(frozen=True)
class Published:
    """Counts of a release.

    sources: a letter for each of the three numbers. V: from the publisher, or printed by code that counts the files. S: stated
    by a third party. -: the number is not known. release: empty if there is only one. where: who states the numbers.
    """

    counts: Counts
    sources: str
    release: str
    where: str


_TFDS, _SAM4MLLM = "tensorflow/datasets ref_coco", "AI-Application-and-Integration-Lab/SAM4MLLM"
_DEMO, _MCN = "lichengunc/refer pyReferDemo", "luogen1996/MCN #7"
_BOTH = f"{_TFDS}, {_SAM4MLLM}"
_NEW, _OLD = "of 2023-08-29", "before 2023-08-29"


def _images(name: str, source: str, where: str, **splits: int) -> dict[tuple[str, str, str], tuple[Published, ...]]:
    """Entries of :data:`PUBLISHED` that say how many images each split has, and nothing else."""
    return {
        (name, "", split): (Published(Counts(count, None, None), f"{source}--", "", where),)
        for split, count in splits.items()
    }


PUBLISHED: dict[tuple[str, str, str], tuple[Published, ...]] = {
    ("refcoco", "unc", "train"): (Published(Counts(16994, 42404, 120624), "VVV", "", _BOTH),),
    ("refcoco", "unc", "val"): (Published(Counts(1500, 3811, 10834), "VVS", "", f"{_TFDS}, flageval.baai.ac.cn"),),
    ("refcoco", "unc", "testA"): (Published(Counts(750, 1975, 5657), "VVS", "", f"{_TFDS}, flageval.baai.ac.cn"),),
    ("refcoco", "unc", "testB"): (Published(Counts(750, 1810, 5095), "VVS", "", f"{_TFDS}, flageval.baai.ac.cn"),),
    ("refcoco", "unc", "val+testA+testB"): (Published(Counts(None, None, 21586), "--V", "", _SAM4MLLM),),
    ("refcoco", "unc", "all"): (
        Published(Counts(19994, 50000, 142210), "VVV", "", _DEMO),
        Published(Counts(19994, 50000, 142209), "VVS", "as papers state it", "papers"),
    ),
    ("refcoco", "google", "train"): (Published(Counts(19213, 40000, None), "VV-", "", _TFDS),),
    ("refcoco", "google", "val"): (Published(Counts(4559, 5000, None), "VV-", "", _TFDS),),
    ("refcoco", "google", "test"): (Published(Counts(4527, 5000, None), "VV-", "", _TFDS),),
    ("refcoco+", "unc", "train"): (Published(Counts(16992, 42278, 120191), "VVV", "", _BOTH),),
    ("refcoco+", "unc", "val"): (Published(Counts(1500, 3805, None), "VV-", "", _TFDS),),
    ("refcoco+", "unc", "testA"): (Published(Counts(750, 1975, None), "VV-", "", _TFDS),),
    ("refcoco+", "unc", "testB"): (Published(Counts(750, 1798, None), "VV-", "", _TFDS),),
    ("refcoco+", "unc", "val+testA+testB"): (Published(Counts(None, None, 21373), "--V", "", _SAM4MLLM),),
    ("refcoco+", "unc", "all"): (Published(Counts(None, None, 141564), "--S", "", "papers"),),
    ("refcocog", "umd", "train"): (Published(Counts(21899, 42226, 80512), "VVV", "", _BOTH),),
    ("refcocog", "umd", "val"): (Published(Counts(1300, 2573, None), "VV-", "", _TFDS),),
    ("refcocog", "umd", "test"): (Published(Counts(2600, 5023, None), "VV-", "", _TFDS),),
    ("refcocog", "umd", "val+test"): (Published(Counts(None, None, 14498), "--V", "", _SAM4MLLM),),
    ("refcocog", "umd", "all"): (Published(Counts(None, None, 95010), "--S", "", _MCN),),
    ("refcocog", "google", "train"): (Published(Counts(24698, 44822, None), "VV-", "", _TFDS),),
    ("refcocog", "google", "val"): (Published(Counts(4650, 5000, None), "VV-", "", _TFDS),),
    ("refcocog", "google", "all"): (Published(Counts(None, None, 104560), "--S", "", _MCN),),
    ("grefcoco", "unc", "train"): (Published(Counts(None, 78930, 209344), "-VV", _NEW, _SAM4MLLM),),
    ("grefcoco", "unc", "val"): (Published(Counts(1500, 8163, None), "VV-", _NEW, f"{_SAM4MLLM}, LeapLabTHU/GSVA"),),
    ("grefcoco", "unc", "testA"): (Published(Counts(750, 6266, None), "VV-", _NEW, f"{_SAM4MLLM}, LeapLabTHU/GSVA"),),
    ("grefcoco", "unc", "testB"): (Published(Counts(750, 4618, None), "VV-", _NEW, f"{_SAM4MLLM}, LeapLabTHU/GSVA"),),
    ("grefcoco", "unc", "val+testA+testB"): (Published(Counts(None, None, 50515), "--V", _NEW, _SAM4MLLM),),
    ("grefcoco", "unc", "all"): (
        Published(Counts(None, None, 259859), "--V", _NEW, _SAM4MLLM),
        Published(Counts(None, None, 278232), "--V", _OLD, "the paper, arXiv 2306.00968"),
    ),
    **_images("reasonseg", "V", "dvlab-research/LISA README", train=239, val=200, test=779),
    ("reasonseg_hub", "", "val"): (Published(Counts(None, 200, None), "-V-", "", "Ricky06662/ReasonSeg_val README"),),
    **_images("ade20k", "S", "boschresearch/OASIS #7", train=20210, val=2000),
    **_images("cocostuff", "S", "COCO's own splits", train=118287, val=5000),
    **_images("mapillary", "S", "Mapillary's README in a copy", train=18000, val=2000, test=5000),
    **_images("paco", "V", "facebookresearch/paco docs", train=45790, val=2410, test=9443),
    **_images("lvis", "S", "winvoker/lvis, lvis-dataset/lvis-api #32", train=100170, val=19809, test=19822),
    **_images("partimagenet", "V", "TACJu/PartImageNet README", train=16540, val=2957, test=4598),
    **_images("coco", "S", "third parties", train2014=82783, val2014=40504, train2017=118287, val2017=5000),
    **_images("saiapr", "V", "lichengunc/refer README", all=19997),
    ("coco", "", "all"): (
        Published(Counts(123287, None, None), "S--", "", "third parties"),
        Published(Counts(82783, None, None), "S--", "of train2014 alone", "third parties"),
        Published(Counts(118287, None, None), "S--", "of train2017 alone", "third parties"),
    ),
    ("mmr", "", "train"): (Published(Counts(None, 154127, None), "-V-", "", "jdg900/MMR README"),),
    ("mmr", "", "val"): (Published(Counts(None, 8194, None), "-V-", "", "jdg900/MMR README"),),
}
"""(set, split_by, split) -> counts of each release, the current one first.

Splits counted together are joined by +; all means every split. Not found anywhere: refCLEF by split (its archive has 19 997
pictures), Ref-ZOM, FP- and R-refCOCO, PASCAL-Part.
Numbers that are only published rounded (EgoObjects, LLM-Seg40K, MUSE, LLaVA-Instruct-150k) are left out."""

State = Literal["equal", "release", "differs", "sample", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """How counts compare with the published ones.

    state: equal; release: equal to those of another known release; differs; sample: far fewer images than published; unknown:
    there is nothing to compare with. against: the published counts that they were compared with.
    """

    state: State
    text: str
    against: Published | None = None


def verdict(name: str, variant: str, split: str, found: Counts) -> Verdict:
    """Compare the counts of a split with the published ones. A number that one of the two lacks is not compared.

    Args:
        name: of the published set, such as refcoco+. variant: who made its splits, else empty.
    """
    known = [each for each in published(name, variant, split) if _pairs(each, found)]
    if not known:
        return Verdict("unknown", "no published count is known")
    for each in known:
        if all(expected == actual for _, expected, actual in _pairs(each, found)):
            same = ", ".join(f"{grouped(actual)} {what}" for what, _, actual in _pairs(each, found))
            if each is known[0]:
                return Verdict("equal", f"{same} as published {each.release}".rstrip(), each)
            return Verdict("release", f"{same} as in another release, the one {each.release}", each)
    parts = [
        f"{grouped(actual)} {what} where {grouped(expected)} are published "
        f"({grouped(abs(actual - expected))} {'more' if actual > expected else 'fewer'})"
        for what, expected, actual in _pairs(known[0], found)
        if actual != expected
    ]
    _, expected, actual = _pairs(known[0], found)[0]
    return Verdict("sample" if actual * _FEW < expected else "differs", ", ".join(parts), known[0])


def published(name: str, variant: str, split: str) -> tuple[Published, ...]:
    """The published counts of a split, for each release; empty if nothing is known."""
    return PUBLISHED.get((name, variant, split), ())


def as_words(counts: Counts) -> str:
    """Counts in words, such as "16 994 images, 42 404 questions"."""
    both = zip(_IN_THE_STORE, _values(counts), strict=True)
    return ", ".join(f"{grouped(value)} {what}" for what, value in both if value is not None)


def grouped(number: int) -> str:
    """A number with its digits in groups of three: 16 994."""
    return f"{number:,}".replace(",", " ")


def _pairs(published: Published, found: Counts) -> list[tuple[str, int, int]]:
    """Name, published number and number found of each count for which both are known."""
    both = zip(_IN_THE_STORE, _values(published.counts), _values(found), strict=True)
    return [(what, want, have) for what, want, have in both if want is not None and have is not None]


def _values(counts: Counts) -> tuple[int | None, ...]:
    return counts.images, counts.refs, counts.sentences
