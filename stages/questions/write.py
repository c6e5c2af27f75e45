"""Writes questions as a data set of the format generated, and in the form of LLM-Seg40K."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stages.datasets.base import DatasetError
from stages.datasets.ids import coco_id_of
from stages.questions.choose import Candidate, Chosen, split_of
from stages.questions.items import Made, Rejected, Verdict
from store import rle
from store.storage.files import make_folder
from store.storage.leftovers import replace_file

LLMSEG40K = {"train": "train", "val": "validation", "test": "test"}
"""Split -> name of its file in LLM-Seg40K's release."""
Masks = Callable[[Candidate], Sequence[str]]
"""COCO RLE counts of the instances of a candidate, in the order of its labels."""


def write(
    root: Path,
    chosen: Sequence[Chosen],
    made: Iterable[Made],
    rejected: Iterable[Rejected],
    summary: Mapping[str, Any],
    shares: Mapping[str, float],
    masks: Masks,
) -> list[Path]:
    """Write the files of a set of questions; the same input gives the same bytes.

    ``<split>.jsonl`` is what the format generated reads; ``llmseg40k/`` has the same questions in the form of LLM-Seg40K;
    ``rejected.jsonl`` has a line for each rejection, ``summary.json`` the figures. Each file appears whole. Files that an
    earlier call wrote for a split that is not in ``shares`` are removed.

    Args:
        shares: split -> its share of the images (:func:`stages.questions.choose.split_of`).

    Returns:
        The paths of the files.
    """
    of_image: dict[str, list[Made]] = {}
    for one in made:
        of_image.setdefault(one.image_id, []).append(one)
    lines: dict[str, list[bytes]] = {split: [] for split in shares}
    released: dict[str, dict[str, Any]] = {split: {} for split in shares}
    for candidate in sorted((each.candidate for each in chosen), key=lambda each: each.image_id):
        if candidate.image_id in of_image:
            split, found = split_of(candidate.sha256, shares), of_image[candidate.image_id]
            counts = masks(candidate)
            lines[split].append(_line(_row(candidate, found, counts)))
            if any(len(each.labels) == 1 for each in found):  # LLM-Seg's code draws one pair of every image
                released[split][candidate.path] = _released(candidate, found, counts)
    files = {f"{split}.jsonl": b"".join(found) for split, found in lines.items()}
    files["summary.json"] = json.dumps(summary, indent=1, ensure_ascii=False).encode() + b"\n"
    for split, by_path in released.items():
        named = {PurePosixPath(path).name: row for path, row in by_path.items()}
        if len(named) < len(by_path):  # two folders have files of the same name, so paths are used
            named = by_path
        files[f"llmseg40k/{LLMSEG40K.get(split, split)}.json"] = json.dumps(named, ensure_ascii=False).encode()
    paths = [*(_write(root / name, data) for name, data in files.items()), write_rejected(root, rejected)]
    _remove_others(root, shares)
    return paths


def write_rejected(root: Path, rejected: Iterable[Rejected]) -> Path:
    """Write ``rejected.jsonl`` and return its path."""
    return _write(root / "rejected.jsonl", b"".join(_line(each.row) for each in sorted(rejected, key=_place)))


def require_own(root: Path, splits: Iterable[str]) -> None:
    """Check that the files of splits and the summary below ``root``, if they exist, were written by :func:`write`.

    Raises:
        DatasetError: one of them was not, and would be overwritten.
    """
    for name, key in (*((f"{split}.jsonl", "requests") for split in splits), ("summary.json", "llmseg40k")):
        path = root / name
        if path.exists() and not _is_own(path, key):
            raise DatasetError(
                f"{path}: exists, and `python cli.py questions` did not write it; expected a folder of its own: "
                "set another root of the data set in section data of the params"
            )


def _is_own(path: Path, key: str) -> bool:
    with path.open("rb") as file:
        data = file.readline() if path.suffix == ".jsonl" else file.read()
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and key in found


def _remove_others(root: Path, splits: Collection[str]) -> None:
    """Remove files of splits that are no longer among these: their images may be in another split now."""
    for path in sorted(root.glob("*.jsonl")):
        if path.stem not in splits and _is_own(path, "requests"):
            (root / f"llmseg40k/{LLMSEG40K.get(path.stem, path.stem)}.json").unlink(missing_ok=True)
            path.unlink()


def _row(candidate: Candidate, made: Sequence[Made], counts: Sequence[str]) -> dict[str, Any]:
    """A line of the format generated (stages/datasets/generated.py), with the instances that answer something."""
    used = {label for each in made for label in each.labels}
    kept = [place for place, label in enumerate(candidate.labels) if label in used and rle.area(counts[place])]
    origins = list(dict.fromkeys(each.origin for each in made))
    return {
        "image_id": candidate.image_id,
        "path": candidate.path,
        "height_px": candidate.height_px,
        "width_px": candidate.width_px,
        "instances": [{"label": candidate.labels[place], "counts": counts[place]} for place in kept],
        "requests": [vars(each) for each in origins],
        "targets": [
            {
                "texts": each.texts,
                "is_sentence": each.is_sentence,
                "kind": each.kind,
                "answer": each.answer,
                "instances": [number for number, place in enumerate(kept) if candidate.labels[place] in each.labels],
                "absent": not each.labels,
                "correction": each.correction,
                "incomplete": each.incomplete,
                "made": {
                    "request": origins.index(each.origin),
                    "verdicts": [_verdict(verdict) for verdict in each.verdicts],
                    "usd": each.usd,
                },
            }
            for each in made
        ],
    }


def _verdict(verdict: Verdict) -> dict[str, str | None]:
    model = verdict.model or None
    return {"step": verdict.step, "model": model, "said": verdict.said, "response": verdict.raw}


def _released(candidate: Candidate, made: Sequence[Made], counts: Sequence[str]) -> dict[str, Any]:
    """An image in the form of LLM-Seg40K: a pair for each text whose answer is one category."""
    size = [candidate.height_px, candidate.width_px]
    pairs = [
        {
            "question": text,
            "answer": each.labels[0],
            "rle_seg": {"size": size, "counts": rle.union(_of(candidate, each.labels, counts), *size)},
            "segmentation_path": "",
        }
        for each in made
        if len(each.labels) == 1
        for text in each.texts
    ]
    return {"from_dataset": "coco" if coco_id_of(candidate.path) else "ego_objects", "qa_pairs": pairs}


def _of(candidate: Candidate, labels: Sequence[str], counts: Sequence[str]) -> list[str]:
    return [each for each, label in zip(counts, candidate.labels, strict=True) if label in labels]


def _place(rejected: Rejected) -> tuple[str, int, str, str]:
    number = -1 if rejected.number is None else rejected.number
    return rejected.image_id, number, rejected.reason.name, rejected.what


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _write(path: Path, data: bytes) -> Path:
    if (
        not path.exists() or path.read_bytes() != data
    ):  # an unchanged file keeps its time, so index does not read it again
        make_folder(path.parent)
        replace_file(path, data)
    return path
