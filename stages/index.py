"""Data set -> images, instances, targets. Orientation by EXIF and rasterising happen here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stages.base import HELD_IMAGES, Collector, ColumnSpec, Entry, Runner, ShardInput
from stages.datasets import FORMATS, loader, reading
from stages.datasets.base import Annotation, DatasetError, Source, Target
from stages.datasets.params import DataParams
from stages.datasets.words import Words
from stages.digests import digests_in
from stages.image_rows import borrowed_row, image_row, unlisted_row
from stages.images import ImageFailure, inside
from stages.params import Sections
from stages.threads import cores, in_threads
from store import rle
from store.addresses import below
from store.format import schema
from store.format.links import links_extra
from store.format.schema import ABSENT, FAILED
from store.read.folders import Folders
from store.write.writer import ShardData

VERSION, TARGETS_VERSION = 3, 4
"""2: shapes by their shape_type, sizes in the JSON, encodings; images without annotation are absent; a JPEG may lack its end.

3: rows of images say where a borrowed image is. 4, only for targets: they have ``absent``, ``correction``, ``incomplete`` and
``turns``.
"""

_Found = tuple[Annotation, dict[str, Any]]
"""An annotation, and the row of ``instances``."""


def columns(params: Sections) -> list[ColumnSpec]:
    """The three tables of a split."""
    pixels = {"max_pixels": params.data.max_pixels}
    annotated = reading(params.data)
    if params.holder is None:
        images = ColumnSpec("images", "index", (), pixels, VERSION, schema=schema.IMAGES, files="images")
    else:
        images = ColumnSpec("images", "index", (HELD_IMAGES,), {}, VERSION, schema=schema.IMAGES)
    if not FORMATS[params.data.format].annotated:
        return [images]
    return [
        images,
        ColumnSpec(
            "instances",
            "index",
            ("images",),
            annotated,
            VERSION,
            schema=schema.INSTANCES,
            files="annotations",
        ),
        ColumnSpec(
            "targets",
            "index",
            ("images",),
            annotated,
            TARGETS_VERSION,
            schema=schema.TARGETS.append(schema.MADE) if FORMATS[params.data.format].made else schema.TARGETS,
            files="annotations",
        ),
    ]


def order(known: Sequence[tuple[str, str]], listed: Sequence[Source]) -> list[Entry]:
    """The images of a split in their permanent order: known ones keep their place, new ones follow.

    Args:
        known: (image_id, path) in the order of the store. listed: what the data set holds now.

    Raises:
        DatasetError: two sources have the same image_id; the message names the files of both.
    """
    paths = dict(known)
    now: dict[str, Source] = {}
    for source in listed:
        other = now.get(source.image_id)
        now[source.image_id] = _known_file_first(source, paths.get(source.image_id))
        if other is not None:
            files = " and ".join(", ".join((each.path, *each.annotations)) for each in (other, source))
            raise DatasetError(
                f"image_id {source.image_id!r} is listed twice: {files}; expected an image_id for each image"
            )
    entries = [
        Entry(now[image_id]) if image_id in now else Entry(Source(image_id, path, ()), removed=True)
        for image_id, path in known
    ]
    return entries + [Entry(source) for source in listed if source.image_id not in paths]


def _known_file_first(source: Source, path: str | None) -> Source:
    """The source, with the file that the image was made from before as the first one, if it still exists."""
    files = (source.path, *source.others)
    if path not in source.others:
        return source
    return replace(source, path=str(path), others=tuple(file for file in files if file != path))


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that indexes a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    folders = Folders([below(root, each) for each in params.data.roots])
    pictures = None if params.holder is None else Folders([below(root, each) for each in params.holder.roots])
    annotate = partial(annotation_of, params.data, folders.folders[0], pictures)
    digests = digests_in(root / params.run.cache_dir)
    threads = min(cores(), params.run.prefetch)

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = shard.collectors(specs)
        questions = bool({"instances", "targets"} & out.keys())
        upstream = [None] * len(shard.indices) if "images" in out else shard.rows("images")
        held = shard.rows(HELD_IMAGES) if "images" in out and pictures is not None else []
        if held:
            out["images"].extra |= links_extra([entry.link for entry in shard.entries])

        def read(number: int) -> tuple[dict[str, Any], list[str], _Found | ImageFailure | None]:
            entry, image = shard.entries[number], upstream[number]
            notes: list[str] = []
            if image is None and held and entry.unlisted is not None:
                assert pictures is not None
                assert params.holder is not None
                image = unlisted_row(pictures, entry, params.holder.max_pixels, params.data.images, digests)
            elif image is None and held:
                image = borrowed_row(entry, held[number])
            elif image is None:
                image, notes = image_row(folders, entry, params.data.max_pixels, digests)
            return image, notes, annotate(entry, image) if questions else None

        done = in_threads(read, range(len(shard.indices)), threads, params.run.prefetch)
        for index, entry, (image, notes, annotation) in zip(shard.indices, shard.entries, done, strict=True):
            if "images" in out:
                _add_image(out["images"], index, image, notes)
            if questions:
                _add_annotation(out, index, image, entry, annotation)
            shard.tick(1)
        return {name: collector.data() for name, collector in out.items()}

    return compute


def _add_image(images: Collector, index: int, row: dict[str, Any], notes: Sequence[str]) -> None:
    images.notes.update(notes)
    if row["status"] == schema.OK:
        images.ok(index, row)
    else:
        images.failed(index, row["status"], row["error"], row)


def annotation_of(
    data: DataParams, folder: Path, pictures: Folders | None, entry: Entry, image: Mapping[str, Any]
) -> _Found | ImageFailure | None:
    """The annotation of an image, or why it cannot be used; None for an image that is not ok.

    An image that its holder does not list (status absent) still has its annotation.

    Args:
        folder: where the annotations are. pictures: folders of the data set that holds the image, if it is borrowed.
    """
    if image["status"] not in (schema.OK, schema.ABSENT):
        return None
    height_px, width_px = image["height_px"], image["width_px"]
    try:
        picture = None if pictures is None else inside(pictures, image["path"])
        found = loader(data).annotate(folder, entry.source, height_px, width_px, data, picture)
    except ImageFailure as error:
        return error
    words = Words()
    found = replace(found, targets=tuple(map(words.of, found.targets)), notes=(*found.notes, *words.notes))
    counts = [instance.segmentation for instance in found.instances]
    measured = [rle.bbox_and_area(item, height_px) for item in counts]
    instances = {
        "segmentation": counts,
        "bbox": [list(box) for box, _ in measured],
        "area": [area for _, area in measured],
        "label": [instance.label for instance in found.instances],
    }
    return found, instances


def _add_annotation(
    out: Mapping[str, Collector],
    index: int,
    image: Mapping[str, Any],
    entry: Entry,
    annotated: _Found | ImageFailure | None,
) -> None:
    if annotated is None or isinstance(annotated, ImageFailure):
        for name in out.keys() & {"instances", "targets"}:
            if annotated is None:
                out[name].failed(index, image["status"], f"image: {image['error']}")
            else:
                out[name].failed(index, FAILED if entry.source.annotations else ABSENT, str(annotated))
        return
    annotation, instances = annotated
    if "instances" in out:
        out["instances"].ok(index, instances)
    if "targets" in out:
        out["targets"].ok(index, [_row(target) for target in annotation.targets])
        out["targets"].notes.update(annotation.notes)


def _row(target: Target) -> dict[str, Any]:
    """A row of ``targets``; only generated questions have the field ``made``."""
    row = {**vars(target), "instances": list(target.instances)}
    return row if target.made is not None else {name: value for name, value in row.items() if name != "made"}
