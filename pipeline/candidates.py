"""Images with annotated regions in the store, about which questions are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.commands.boxes import KIND as BOX
from pipeline.config import InputError, Settings
from pipeline.leaks import pictures_of
from pipeline.listed import not_indexed
from pipeline.unlisted import require_listed
from pipeline.upstream import commits_of, place_of
from stages.names import SplitRef
from stages.questions.choose import Candidate
from store.format.layout import column_dir
from store.format.schema import OK
from store.format.tables import read_table

_FIELDS = {
    "images": ("image_index", "image_id", "path", "sha256", "height_px", "width_px", "status"),
    "instances": ("status", "label", "area"),
    "targets": ("image_index", "texts", "instances", "kind", "absent", "incomplete"),
}


@dataclass(frozen=True)
class Found:
    """Images that questions can be made about, and the number of others for each reason to leave them out."""

    candidates: tuple[Candidate, ...]
    left_out: Mapping[str, int]


def candidates_of(
    settings: Settings, splits: Sequence[SplitRef], protected: Sequence[SplitRef], exhaustive: bool
) -> Found:
    """Every image of the splits that is ok and has annotated regions, except pictures of protected splits.

    Args:
        protected: splits whose pictures must not be among them, known as :mod:`pipeline.leaks` knows pictures.
        exhaustive: whether a category that other images have and an image's annotation lacks is absent from that image, as in
            COCO, where all 80 categories are annotated.

    Raises:
        InputError: a split is not indexed or has boxes in place of masks, or no image is left.
    """
    require_listed(settings, list(splits))
    taken = {key for split in protected for key in pictures_of(settings, split).keys}
    found: dict[str, Candidate] = {}
    left_out = dict.fromkeys(
        ("pictures of protected splits", "images without annotated regions", "images of another split"), 0
    )
    for split in splits:
        known = pictures_of(settings, split).keys if taken else {}
        leaked = {index for key in known.keys() & taken for index in known[key]}
        for candidate in _of_split(settings, split):
            if candidate.image_index in leaked:
                left_out["pictures of protected splits"] += 1
            elif not candidate.labels:
                left_out["images without annotated regions"] += 1
            elif candidate.image_id in found:
                left_out["images of another split"] += 1
            else:
                found[candidate.image_id] = candidate
    if not found:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count) or "no image is ok"
        raise InputError(f"{' and '.join(map(str, splits))}: no image that questions can be made about ({why})")
    candidates = tuple(found.values())
    return Found(_with_absent(candidates) if exhaustive else candidates, left_out)


def _of_split(settings: Settings, split: SplitRef) -> Iterator[Candidate]:
    """The images of a split that are ok and annotated, with or without regions."""
    tables = []
    for name, fields in _FIELDS.items():
        commits = commits_of(settings, split, name)
        if commits is None:
            raise not_indexed(settings, split)
        folder = column_dir(settings.store_path, place_of(settings, split, name))
        tables.append([(folder, commit, fields) for commit in commits])
    for shard in zip(*tables, strict=True):
        images, regions, targets = (read_table(*each).to_pylist() for each in shard)
        asked: dict[int, list[dict[str, Any]]] = {}
        for target in targets:
            asked.setdefault(target["image_index"], []).append(target)
        for image, region in zip(images, regions, strict=True):
            if image["status"] == OK and region["status"] == OK:
                yield _candidate(settings, split, image, region, asked.get(image["image_index"], []))


def _candidate(
    settings: Settings,
    split: SplitRef,
    image: Mapping[str, Any],
    region: Mapping[str, Any],
    targets: Sequence[Mapping[str, Any]],
) -> Candidate:
    labels = region["label"]
    if any(target["kind"] == BOX for target in targets):
        boxes = settings.command("boxes", "--data", split.dataset, "--split", split.split, "--out", "FILE")
        raise InputError(
            f"{split}: image {image['image_id']} has boxes, expected masks; `{boxes}` makes a file of masks out of them, for "
            "a data set of the format coco"
        )
    return Candidate(
        split=str(split),
        **{name: image[name] for name in ("image_index", "image_id", "path", "sha256", "height_px", "width_px")},
        labels=tuple(labels),
        areas=tuple(region["area"]),
        absent=tuple(target["texts"][0] for target in targets if target["absent"]),
        incomplete=frozenset(
            labels[each] for target in targets if target["incomplete"] for each in target["instances"]
        ),
    )


def _with_absent(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The candidates, with each category that others have and they lack added to ``absent``."""
    known = dict.fromkeys(label for each in candidates for label in each.labels)
    return tuple(
        replace(each, absent=tuple(label for label in known if label not in each.labels)) for each in candidates
    )
