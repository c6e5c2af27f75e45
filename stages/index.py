"""Data set -> images, instances, targets. Orientation by EXIF and rasterising happen here, once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stages.base import Collector, ColumnSpec, Entry, Runner, ShardInput
from stages.datasets import DATASETS
from stages.datasets.base import Annotation, DatasetError, Source
from stages.images import LOST_LINK, ImageFailure, inside, read_picture
from stages.params import DataParams, Sections
from store import rle
from store.format import schema
from store.format.schema import ABSENT, FAILED, REMOVED
from store.storage.files import cached_sha256
from store.write.writer import ShardData

VERSION = 2
"""2: shapes by their shape_type, sizes in the JSON, encodings; images without annotation are absent; a JPEG may lack its end."""

CONTROL = re.compile(r"</?s>|<unk>|<pad>|<image>|<im_(?:start|end|patch)>|<\|\w+\|>|<SEG_MASK_\d+>|\[(?:SEG|REJ)\]")
"""What language models read as something else than words; ``train`` refuses questions that have it."""


def columns(params: Sections) -> list[ColumnSpec]:
    """The three tables of a split."""
    pixels = {"max_pixels": params.data.max_pixels}
    annotated = {"format": params.data.format, **reading(params.data)}
    return [
        ColumnSpec("images", "index", (), pixels, VERSION, schema=schema.IMAGES, files="images"),
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
            VERSION,
            schema=schema.TARGETS,
            files="annotations",
        ),
    ]


def reading(data: DataParams) -> dict[str, Any]:
    """Options of a loader's functions, those that are not at their default."""
    return {} if data.encoding is None else {"encoding": data.encoding}


def order(known: Sequence[tuple[str, str]], listed: Sequence[Source]) -> list[Entry]:
    """The images of a split in their order for life: known ones keep their place, new ones come after.

    Args:
        known: (image_id, path) in the order of the store. listed: what the data set holds now.

    Raises:
        DatasetError: two sources have one image_id; names the files of both.
    """
    now: dict[str, Source] = {}
    for source in listed:
        other = now.setdefault(source.image_id, source)
        if other is not source:
            files = " and ".join(", ".join((each.path, *each.annotations)) for each in (other, source))
            raise DatasetError(
                f"image_id {source.image_id!r} is listed twice: {files}; expected an image_id for each image"
            )
    entries = [
        Entry(now[image_id]) if image_id in now else Entry(Source(image_id, path, ()), removed=True)
        for image_id, path in known
    ]
    old = {image_id for image_id, _ in known}
    return entries + [Entry(source) for source in listed if source.image_id not in old]


def source_files(entry: Entry, files: str) -> tuple[str, ...]:
    """The files a row of ``images`` (or of the two ``annotations`` tables) is made from, relative to the data set's root."""
    if entry.removed:
        return ()
    return (entry.source.path,) if files == "images" else entry.source.annotations


def source_sha256(root: Path, path: str) -> str:
    """sha256 of a source file; ``missing``, or ``outside`` for a path whose words lead out of ``root``.

    Raises:
        FileNotFoundError: its whole folder is gone, e.g. an unmounted disk; that is no fact about the data set.
    """
    try:
        file = inside(root, path)
    except ImageFailure:
        return "outside"
    if file.is_file():
        return cached_sha256(file)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder is not there")
    return "missing"


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that indexes a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    loader = DATASETS[params.data.format]
    folder = root / params.data.root
    annotate = partial(loader.annotate, folder, **reading(params.data))

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = {name: Collector(spec) for name, spec in specs.items()}
        upstream = [None] * len(shard.indices) if "images" in out else shard.rows("images")
        for index, entry, row in zip(shard.indices, shard.entries, upstream, strict=True):
            image = row or image_row(folder, entry, params.data.max_pixels)
            if "images" in out:
                _add_image(out["images"], index, image)
            _add_annotation(out, index, image, entry, annotate)
            shard.tick(1)
        return {name: collector.data() for name, collector in out.items()}

    return compute


def image_row(root: Path, entry: Entry, max_pixels: int) -> dict[str, Any]:
    """The row of ``images``: size after EXIF, digest, and the reason if it cannot be used, or what is odd about its file."""
    row: dict[str, Any] = {"image_id": entry.source.image_id, "path": entry.source.path, "height_px": 0, "width_px": 0}
    if entry.removed:
        return {**row, "sha256": "", "status": REMOVED, "error": REMOVED}
    sha256 = source_sha256(root, entry.source.path)
    try:
        path = inside(root, entry.source.path)
        if sha256 == "missing":
            reason = f"{LOST_LINK}:" if path.is_symlink() else "no image file"
            return {**row, "sha256": "", "status": FAILED, "error": f"{reason} {entry.source.path}"}
        picture = read_picture(path, max_pixels)
    except ImageFailure as error:
        return {**row, "sha256": "" if sha256 == "outside" else sha256, "status": FAILED, "error": str(error)}
    height, width, _ = picture.pixels.shape
    size = {"height_px": height, "width_px": width}
    return {**row, **size, "sha256": sha256, "status": schema.OK, "error": picture.note}


def _add_image(images: Collector, index: int, row: dict[str, Any]) -> None:
    if row["status"] == schema.OK:
        images.ok(index, row)
        images.notes.update([row["error"]] if row["error"] else [])
    else:
        images.failed(index, row["status"], row["error"], row)


def _add_annotation(
    out: Mapping[str, Collector],
    index: int,
    image: Mapping[str, Any],
    entry: Entry,
    annotate: Callable[[Source, int, int], Annotation],
) -> None:
    wanted = [out[name] for name in ("instances", "targets") if name in out]
    if not wanted:
        return
    if image["status"] != schema.OK:
        for column in wanted:
            column.failed(index, image["status"], f"image: {image['error']}")
        return
    try:
        annotation = annotate(entry.source, image["height_px"], image["width_px"])
    except ImageFailure as error:
        for column in wanted:
            column.failed(index, FAILED if entry.source.annotations else ABSENT, str(error))
        return
    if "instances" in out:
        counts = [instance.segmentation for instance in annotation.instances]
        row = {
            "segmentation": counts,
            "bbox": [list(rle.bbox(item, image["height_px"])) for item in counts],
            "area": [rle.area(item) for item in counts],
            "label": [instance.label for instance in annotation.instances],
        }
        out["instances"].ok(index, row)
    if "targets" in out:
        out["targets"].ok(
            index, [{**vars(target), "instances": list(target.instances)} for target in annotation.targets]
        )
        texts = {text for target in annotation.targets for text in target.texts if CONTROL.search(text)}
        out["targets"].notes.update(annotation.notes)
        out["targets"].notes.update(
            "question with a control token of language models, which train refuses" for _ in texts
        )
