"""The verb ``leaks``: which splits share pictures, and what a training leaves out of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.config import Settings
from pipeline.leaks import alike_pictures, left_out, pictures_of, shared
from pipeline.runs import resolve
from pipeline.upstream import known_sources
from stages.names import SplitRef

NOT_PROTECTED = (
    "Only splits in the params are protected. To protect the val and test splits of published sets on COCO's pictures, add them to "
    "the params: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, R-RefCOCO, Ref-ZOM, LLM-Seg40K, MUSE, MMR. COCO's pictures in Visual "
    "Genome and GQA have other names and bytes; the option coco_ids of their data set says which they are."
)
SHOWN = 50
"""The text shows at most this many pairs that look alike; --json has all."""


def leaks_command(
    settings: Settings, splits: Sequence[SplitRef], run: str | None, pixels: bool = False, alike: bool = False
) -> dict[str, Any]:
    """Which of the splits share pictures; with ``run``, what that training leaves out, and from which splits.

    Args:
        pixels: compare decoded pixels, too. alike: also list pictures that look alike.

    Raises:
        InputError: a split is not indexed, or there is no such run.
    """
    known = {split: pictures_of(settings, split, pixels) for split in splits}
    counts = {str(split): len(pictures.files) for split, pictures in known.items()}
    found: dict[str, Any] = {"splits": counts, "shared": []}
    for pair in shared(settings, known):
        example = known_sources(settings, pair.one)[min(pair.images)][0]
        entry = {"splits": [str(pair.one), str(pair.other)], "pictures": len(pair.images), "example": example}
        found["shared"].append(entry)
    if alike:
        found["alike"] = [list(pair) for pair in alike_pictures(settings, known)]
    if run is not None:
        resolved = resolve(settings, None, run, "--run")
        trained = settings.refs("train", resolved.params.splits)
        lost = left_out(settings, trained, resolved.params.leaks, pixels or resolved.params.leaks_pixels)
        found["run"] = {
            "name": run,
            "leaks": resolved.params.leaks,
            "protected": [str(split) for split in lost.protected],
            "not_indexed": [str(split) for split in lost.not_indexed],
            "left_out": {str(split): len(lost.images.get(str(split), ())) for split in trained},
            "image_ids": {name: _image_ids(settings, name, images) for name, images in lost.images.items()},
        }
    return found


def _image_ids(settings: Settings, split: str, images: Sequence[int]) -> list[str]:
    known = known_sources(settings, SplitRef.of(split))
    return [known[index][0] for index in images]


def as_text(found: dict[str, Any]) -> str:
    """What :func:`leaks_command` found, as text for a person."""
    lines = []
    for pair in found["shared"]:
        one, other = pair["splits"]
        counts = f"{found['splits'][one]} and {found['splits'][other]}"
        lines.append(f"{one} and {other} share {pair['pictures']} pictures (of {counts}), such as {pair['example']}")
    if not lines:
        lines.append(f"no two of {len(found['splits'])} splits share a picture")
    if "alike" in found:
        lines += ["", f"{len(found['alike'])} pairs look alike (bits of 64 that differ); look at them:"]
        lines += [f"  {bits}  {one}  {other}" for one, other, bits in found["alike"][:SHOWN]]
    if run := found.get("run"):
        lines += ["", f"run {run['name']} (leaks: {run['leaks']}) leaves out:"]
        lines += [f"  {split}: {count} pictures" for split, count in run["left_out"].items()]
        lines.append(f"  protected: {', '.join(run['protected']) or 'nothing'}")
        if run["not_indexed"]:
            lines.append(f"  not protected, because they are not indexed: {', '.join(run['not_indexed'])}")
    return "\n".join([*lines, "", NOT_PROTECTED])
