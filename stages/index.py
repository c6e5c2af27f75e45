"""Data set -> images, instances, targets. Orientation by EXIF and rasterising happen here, once."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from stages.base import HELD_IMAGES, Collector, ColumnSpec, Entry, Runner, ShardInput
from stages.datasets import DATASETS
from stages.datasets.base import Annotation, DatasetError, Source
from stages.digests import Digests, digests_in
from stages.images import LOST_LINK, ImageFailure, check_inside, inside, picture_size
from stages.params import DataParams, Sections
from stages.threads import cores, in_threads
from store import rle
from store.format import schema
from store.format.links import links_extra
from store.format.schema import ABSENT, FAILED, REMOVED
from store.storage.files import file_sha256
from store.write.writer import ShardData

VERSION = 3
"""2: shapes by their shape_type, sizes in the JSON, encodings; images without annotation are absent; a JPEG may lack its end.
3: rows of images say where a borrowed image is."""

CONTROL = re.compile(r"</?s>|<unk>|<pad>|<image>|<im_(?:start|end|patch)>|<\|\w+\|>|<SEG_MASK_\d+>|\[(?:SEG|REJ)\]")
"""What language models read as something else than words; ``train`` refuses questions that have it."""

_Found = tuple[Annotation, dict[str, Any]]
"""An annotation, and the row of ``instances``."""


def columns(params: Sections) -> list[ColumnSpec]:
    """The three tables of a split."""
    pixels = {"max_pixels": params.data.max_pixels}
    annotated = {"format": params.data.format, **reading(params.data)}
    if params.holder is None:
        images = ColumnSpec("images", "index", (), pixels, VERSION, schema=schema.IMAGES, files="images")
    else:
        images = ColumnSpec("images", "index", (HELD_IMAGES,), {}, VERSION, schema=schema.IMAGES)
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
            VERSION,
            schema=schema.TARGETS,
            files="annotations",
        ),
    ]


def reading(data: DataParams) -> dict[str, Any]:
    """Options of a loader's functions, those that are not at their default."""
    return {} if data.encoding is None else {"encoding": data.encoding}


def order(known: Sequence[tuple[str, str]], listed: Sequence[Source]) -> list[Entry]:
    """The images of a split in their permanent order: known ones keep their place, new ones come after.

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


def source_sha256(root: Path, path: str, digests: Digests | None = None) -> str:
    """sha256 of a source file, or what :func:`_source` says instead of its state. Raises as that does.

    ``digests``: those that are known; None: the file is read.
    """
    file, state = f"{root}/{path}", _source(root, path)
    if isinstance(state, str):
        return state
    return file_sha256(Path(file)) if digests is None else digests.sha256(file, state)


def source_digests(root: Path, paths: Iterable[str], digests: Digests) -> dict[str, str]:
    """:func:`source_sha256` of several files; those that have to be read are read in threads."""
    found: dict[str, str] = {}
    unknown: dict[str, os.stat_result] = {}
    for path in paths:
        state = _source(root, path)
        known = state if isinstance(state, str) else digests.known(f"{root}/{path}", state)
        if isinstance(known, str):
            found[path] = known
        elif not isinstance(state, str):
            unknown[path] = state
    threads = cores() if len(unknown) > 1 else 0
    read = in_threads(lambda path: digests.sha256(f"{root}/{path}", unknown[path]), unknown, threads, 4 * threads)
    found |= zip(unknown, read, strict=True)
    digests.keep()
    return found


def _source(root: Path, path: str) -> os.stat_result | str:
    """The state of a source file; ``missing``, or ``outside`` for a path whose words lead out of ``root``.

    Raises:
        FileNotFoundError: its whole folder is gone, e.g. an unmounted disk; that is no fact about the data set.
    """
    try:
        check_inside(path)
    except ImageFailure:
        return "outside"
    file, state = f"{root}/{path}", None
    try:
        state = os.stat(file)  # noqa: PTH116 - a Path for each of 100 000 files takes longer than to ask for its state
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
    if state is None or not stat.S_ISREG(state.st_mode):
        if not Path(file).parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder is not there")
        return "missing"
    return state


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that indexes a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    loader = DATASETS[params.data.format]
    folder = root / params.data.root
    annotate = partial(loader.annotate, folder, **reading(params.data))
    pictures = None if params.holder is None else root / params.holder.root
    digests = digests_in(root / params.run.cache_dir)
    threads = min(cores(), params.run.prefetch)

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = shard.collectors(specs)
        questions = bool({"instances", "targets"} & out.keys())
        upstream = [None] * len(shard.indices) if "images" in out else shard.rows("images")
        held = shard.rows(HELD_IMAGES) if "images" in out and pictures is not None else []
        if held:
            out["images"].extra |= links_extra([entry.link for entry in shard.entries])

        def read(number: int) -> tuple[dict[str, Any], _Found | ImageFailure | None]:
            entry = shard.entries[number]
            image = upstream[number] or (
                borrowed_row(entry, held[number]) if held else image_row(folder, entry, params.data.max_pixels, digests)
            )
            return image, _annotated(annotate, entry, image, pictures) if questions else None

        done = in_threads(read, range(len(shard.indices)), threads, params.run.prefetch)
        for index, entry, (image, annotation) in zip(shard.indices, shard.entries, done, strict=True):
            if "images" in out:
                _add_image(out["images"], index, image)
            if questions:
                _add_annotation(out, index, image, entry, annotation)
            shard.tick(1)
        return {name: collector.data() for name, collector in out.items()}

    return compute


def image_row(root: Path, entry: Entry, max_pixels: int, digests: Digests | None = None) -> dict[str, Any]:
    """The row of ``images``: size after EXIF, digest, and the reason if it cannot be used, or what is odd about its file."""
    row: dict[str, Any] = {"image_id": entry.source.image_id, "path": entry.source.path, "height_px": 0, "width_px": 0}
    if entry.removed:
        return {**row, "sha256": "", "status": REMOVED, "error": REMOVED}
    sha256 = source_sha256(root, entry.source.path, digests)
    try:
        path = inside(root, entry.source.path)
        if sha256 == "missing":
            reason = f"{LOST_LINK}:" if path.is_symlink() else "no image file"
            return {**row, "sha256": "", "status": FAILED, "error": f"{reason} {entry.source.path}"}
        height_px, width_px, note = picture_size(path, max_pixels)
    except ImageFailure as error:
        return {**row, "sha256": "" if sha256 == "outside" else sha256, "status": FAILED, "error": str(error)}
    size = {"height_px": height_px, "width_px": width_px}
    return {**row, **size, "sha256": sha256, "status": schema.OK, "error": note}


def borrowed_row(entry: Entry, held: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ``images`` of an image that another data set holds: as its row there, and where that is.

    An image that is not ok there, or not there at all, failed, for the reason that ``held`` gives.
    """
    row: dict[str, Any] = {"image_id": entry.source.image_id, "path": entry.path, "height_px": 0, "width_px": 0}
    row |= {"holder_split": entry.link[0], "holder_index": entry.link[1]} if entry.link else {}
    if entry.removed:
        return {**row, "sha256": "", "status": REMOVED, "error": REMOVED}
    if held["status"] != schema.OK:
        return {**row, "sha256": "", "status": FAILED, "error": held["error"]}
    return row | {name: held[name] for name in ("height_px", "width_px", "sha256", "status", "error")}


def _add_image(images: Collector, index: int, row: dict[str, Any]) -> None:
    if row["status"] == schema.OK:
        images.ok(index, row)
        images.notes.update([row["error"]] if row["error"] and row.get("holder_split") is None else [])
    else:
        images.failed(index, row["status"], row["error"], row)


def _annotated(
    annotate: Callable[..., Annotation], entry: Entry, image: Mapping[str, Any], pictures: Path | None
) -> _Found | ImageFailure | None:
    """What an image is annotated with, or why it cannot be used; None for an image that is not ok.

    ``pictures``: folder of the data set that holds the image, where it is borrowed.
    """
    if image["status"] != schema.OK:
        return None
    height_px = image["height_px"]
    try:
        where = {} if pictures is None else {"picture": inside(pictures, image["path"])}
        found = annotate(entry.source, height_px, image["width_px"], **where)
    except ImageFailure as error:
        return error
    counts = [instance.segmentation for instance in found.instances]
    instances = {
        "segmentation": counts,
        "bbox": [list(rle.bbox(item, height_px)) for item in counts],
        "area": [rle.area(item) for item in counts],
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
        out["targets"].ok(
            index, [{**vars(target), "instances": list(target.instances)} for target in annotation.targets]
        )
        texts = {text for target in annotation.targets for text in target.texts if CONTROL.search(text)}
        out["targets"].notes.update(annotation.notes)
        out["targets"].notes.update(
            "question with a control token of language models, which train refuses" for _ in texts
        )
