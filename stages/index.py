"""Data set -> images, instances, targets. Orientation by EXIF and rasterising happen here, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.base import Collector, ColumnSpec, Entry, Runner, ShardInput
from stages.datasets import DATASETS
from stages.datasets.base import Annotation, Source
from stages.images import ImageFailure, inside, read_image
from stages.params import Sections
from store import rle, schema
from store.files import cached_sha256
from store.schema import FAILED, REMOVED
from store.writer import ShardData

VERSION = 1


def columns(params: Sections) -> list[ColumnSpec]:
    """The three tables of a split."""
    index = params.index
    pixels = {"max_pixels": index.max_pixels}
    return [
        ColumnSpec("images", "index", (), pixels, VERSION, schema=schema.IMAGES, files="images"),
        ColumnSpec(
            "instances",
            "index",
            ("images",),
            {"format": index.format},
            VERSION,
            schema=schema.INSTANCES,
            files="annotations",
        ),
        ColumnSpec(
            "targets",
            "index",
            ("images",),
            {"format": index.format},
            VERSION,
            schema=schema.TARGETS,
            files="annotations",
        ),
    ]


def order(known: Sequence[tuple[str, str]], listed: Sequence[Source]) -> list[Entry]:
    """The images of a split in their order for life: known ones keep their place, new ones come after.

    Args:
        known: (image_id, path) in the order of the store. listed: what the data set holds now.
    """
    now = {source.image_id: source for source in listed}
    entries = [
        Entry(now[image_id]) if image_id in now else Entry(Source(image_id, path, ()), removed=True)
        for image_id, path in known
    ]
    old = {image_id for image_id, _ in known}
    return entries + [Entry(source) for source in listed if source.image_id not in old]


def source_files(entry: Entry, files: str) -> tuple[str, ...]:
    """The files a row of ``images`` (or of the two ``annotations`` tables) is made from, relative to index.root."""
    if entry.removed:
        return ()
    return (entry.source.path,) if files == "images" else entry.source.annotations


def source_sha256(root: Path, path: str) -> str:
    """sha256 of a source file; ``missing``, or ``outside`` for a path that leads out of ``root``.

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
    loader = DATASETS[params.index.format]
    folder = root / params.index.root

    def run(shard: ShardInput) -> dict[str, ShardData]:
        out = {name: Collector(spec) for name, spec in specs.items()}
        upstream = [None] * len(shard.indices) if "images" in out else shard.rows("images")
        for index, entry, row in zip(shard.indices, shard.entries, upstream, strict=True):
            image = row or image_row(folder, entry, params.index.max_pixels)
            if "images" in out:
                _add_image(out["images"], index, image)
            _add_annotation(out, index, image, entry, folder, loader)
            shard.tick(1)
        return {name: collector.data() for name, collector in out.items()}

    return run


def image_row(root: Path, entry: Entry, max_pixels: int) -> dict[str, Any]:
    """The row of ``images``: size after EXIF, digest, and the reason if it cannot be used."""
    row: dict[str, Any] = {"image_id": entry.source.image_id, "path": entry.source.path, "height_px": 0, "width_px": 0}
    if entry.removed:
        return {**row, "sha256": "", "status": REMOVED, "error": REMOVED}
    sha256 = source_sha256(root, entry.source.path)
    if sha256 in ("missing", "outside"):
        reason = "no image file" if sha256 == "missing" else "a link that leads outside the data set's folder:"
        return {**row, "sha256": "", "status": FAILED, "error": f"{reason} {entry.source.path}"}
    try:
        height, width, _ = read_image(inside(root, entry.source.path), max_pixels).shape
    except ImageFailure as error:
        return {**row, "sha256": sha256, "status": FAILED, "error": str(error)}
    return {**row, "sha256": sha256, "height_px": height, "width_px": width, "status": schema.OK, "error": None}


def _add_image(images: Collector, index: int, row: dict[str, Any]) -> None:
    if row["status"] == schema.OK:
        images.ok(index, row)
    else:
        images.failed(index, row["status"], row["error"], row)


def _add_annotation(
    out: Mapping[str, Collector], index: int, image: Mapping[str, Any], entry: Entry, root: Path, loader: Any
) -> None:
    wanted = [out[name] for name in ("instances", "targets") if name in out]
    if not wanted:
        return
    if image["status"] != schema.OK:
        for column in wanted:
            column.failed(index, image["status"], f"image: {image['error']}")
        return
    try:
        annotation: Annotation = loader.annotate(root, entry.source, image["height_px"], image["width_px"])
    except ImageFailure as error:
        for column in wanted:
            column.failed(index, FAILED, str(error))
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
