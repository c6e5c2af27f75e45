"""Writes an export one run of images at a time: first the run's files, then the line that records them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.export.content import WHATS, Asked, Contents, Item, Note
from stages.export.folder import Output, begun
from stages.export.form import Format
from stages.progress import progress


@dataclass(frozen=True)
class Summary:
    """What an export holds.

    counts: ``images``, ``pictures``, and the number of each of ``WHATS``. left_out: what is missing from each image, and why.
    files, size_bytes: number and size of all files written. remarks: what was lost.
    """

    counts: Mapping[str, int]
    left_out: Sequence[Note]
    files: int
    size_bytes: int
    remarks: Sequence[str]


def write_export(form: Format, contents: Contents, folder: Path, head: Mapping[str, Any]) -> Summary:
    """Write the images of an open split into a folder.

    Args:
        head: which export it is, a JSON value; an unfinished export with the same value is continued.

    Raises:
        ExportError: the folder holds something else.
    """
    asked, size = contents.asked, form.unit_images
    runs = [range(start, min(start + size, asked.images)) for start in range(0, asked.images, size)]
    with begun(folder, head) as output:
        todo = runs[output.done :]
        with progress("export", sum(map(len, todo)), "image") as advance:
            for run in todo:
                _write_run(form, contents, output, run)
                advance(len(run))
        return _finish(form, asked, output, head)


def _write_run(form: Format, contents: Contents, output: Output, run: range) -> None:
    items: list[Item] = []
    notes: list[Note] = []
    for image_index in run:
        item, found = contents.read(image_index)
        notes += found
        items += [] if item is None else [item]
    unit = form.unit(contents.asked, items, output.done)
    size = output.write_files(unit.files)
    for name, target in unit.links.items():
        output.link(name, target)
    counts = _counted(items, unit.left_out)
    left_out = [asdict(note) for note in (*notes, *unit.left_out)]
    made = {"files": len(unit.files) + len(unit.links), "bytes": size}
    output.add({"counts": counts, "left_out": left_out, **made, "entries": unit.entries})


def _counted(items: Sequence[Item], unwritten: Sequence[Note]) -> dict[str, int]:
    """How many images, pictures, masks and so on were written for a run of images.

    Args:
        unwritten: what the format could not hold: a note for each whole image, or for each thing that is one of ``WHATS``.
    """
    whole = {note.image_id for note in unwritten if note.what == "image"}
    written = [item for item in items if item.image_id not in whole]
    single = Counter(note.what for note in unwritten if note.image_id not in whole)
    found = {"images": len(written), "pictures": sum(item.picture is not None for item in written)}
    return found | {what: sum(len(getattr(item, what) or ()) for item in written) - single[what] for what in WHATS}


def _finish(form: Format, asked: Asked, output: Output, head: Mapping[str, Any]) -> Summary:
    def entries() -> Iterator[Any]:
        for unit in output.units():
            yield from unit["entries"]

    counts: Counter[str] = Counter()
    left_out: list[Note] = []
    files = size = 0
    for unit in output.units():
        counts.update(unit["counts"])
        left_out += [Note(**note) for note in unit["left_out"]]
        files, size = files + unit["files"], size + unit["bytes"]
    for name, blocks in form.finish(asked, entries):
        size += output.write(name, blocks)
        files += 1
    shown = {name: counts[name] for name in ("images", "pictures", *asked.whats)}
    remarks = form.remarks(asked, entries)
    output.finish({**head, "counts": shown, "remarks": remarks, "left_out": [asdict(note) for note in left_out]})
    return Summary(shown, left_out, files, size, remarks)
