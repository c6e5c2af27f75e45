"""How many images, refs and sentences data sets of referring expressions have, as published, against what was found.

A number that no source states is not here, and not compared. A release is named where a set has several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

READ, REPORTED = "V", "S"
"""Where a number is from. V: read at its publisher's or printed by code that counts the files. S: a third party says so."""
_WHAT = ("images", "refs", "sentences")


@dataclass(frozen=True)
class Counts:
    """What a split, or several together, hold; None: not known."""

    images: int | None
    refs: int | None
    sentences: int | None


@dataclass(frozen=True)
class Published:
    """Counts of a release. splits: one, or those that are counted together. sources: V or S, of images, refs and sentences."""

    counts: Counts
    sources: str
    release: str
    where: str


_TFDS, _SAM4MLLM = "tensorflow/datasets ref_coco", "AI-Application-and-Integration-Lab/SAM4MLLM"
_DEMO, _MCN = "lichengunc/refer pyReferDemo", "luogen1996/MCN #7"
_BOTH = f"{_TFDS}, {_SAM4MLLM}"
_NEW, _OLD = "of 2023-08-29", "before 2023-08-29"

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
}
"""(set, split_by, split) -> counts of each release, the current one first. Splits counted together are joined by +; of every
split: all. Not found anywhere: refCLEF by split (its archive has 19 997 pictures), Ref-ZOM, FP- and R-refCOCO."""


def compare(name: str, split_by: str, splits: Sequence[str], found: Counts) -> str:
    """Say whether the counts of a split, of some together, or of ``all``, are the published ones.

    Args:
        name: of the published set, such as refcoco+.

    Returns:
        A sentence: as published; as in another release, which is named; or by how many they differ from the current release.
    """
    key = (name, split_by, "+".join(splits))
    label = f"{name} ({split_by}) {key[2]}"
    known = PUBLISHED.get(key, ())
    for number, each in enumerate(known):
        if not _differences(each.counts, found):
            compared = ", ".join(
                f"{value} {what} [{source}]"
                for what, value, source in zip(_WHAT, _values(each.counts), each.sources, strict=True)
                if value is not None
            )
            release = f" {each.release}" if each.release else ""
            stated = f"as published{release}" if number == 0 else f"not the current release, but the one {each.release}"
            return f"{label}: {stated}: {compared} ({each.where})"
    if not known:
        return f"{label}: no published count is known"
    current = known[0]
    differences = "; ".join(_differences(current.counts, found))
    return f"{label}: not as published {current.release}".rstrip() + f": {differences} ({current.where})"


def _differences(published: Counts, found: Counts) -> list[str]:
    return [
        f"{actual} {what}, expected {expected} ({abs(actual - expected)} too {'many' if actual > expected else 'few'})"
        for what, expected, actual in zip(_WHAT, _values(published), _values(found), strict=True)
        if expected is not None and actual is not None and actual != expected
    ]


def _values(counts: Counts) -> tuple[int | None, ...]:
    return counts.images, counts.refs, counts.sentences
