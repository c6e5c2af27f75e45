"""Formats in which a split leaves the store: one module and one line of :data:`FORMATS` each."""

from __future__ import annotations

from stages.export import coco, fiftyone, hf, labelme, npz, png, webdataset
from stages.export.folder import ExportError
from stages.export.form import Format
from stages.names import did_you_mean

FORMATS: dict[str, Format] = {
    "coco": Format(coco.unit, coco.finish, pictures=("none", "copy", "link")),
    "labelme": Format(
        labelme.unit,
        labelme.finish,
        labelme.remarks,
        whats=("targets", "instances", "masks"),
        alone=True,
        pictures=("copy", "link", "none"),
        needs={"targets": ("instances",)},
    ),
    "png": Format(png.unit, png.finish, pictures=("none", "copy", "link")),
    "hf": Format(hf.unit, hf.finish, unit_images=hf.UNIT_IMAGES, pictures=("copy", "none"), vectors=True),
    "webdataset": Format(webdataset.unit, unit_images=100, pictures=("copy", "none"), vectors=True),
    "fiftyone": Format(fiftyone.unit, fiftyone.finish, pictures=("copy", "link"), vectors=True),
    "numpy": Format(npz.unit, npz.finish, pictures=("none", "copy", "link"), vectors=True),
}
"""Name, as ``--to`` takes it -> how it is written."""


def format_of(name: str) -> Format:
    """The format of that name. ExportError for an unknown name, with the choices."""
    if name not in FORMATS:
        raise ExportError(f"found {name!r}, expected one of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    return FORMATS[name]
