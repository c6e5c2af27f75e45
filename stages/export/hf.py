"""A data set of the Hugging Face hub: Parquet files with a row per image, and a card.

Pictures have the form of ``datasets.Image``, ``{bytes, path}``; the files' metadata describes each column under the key
``huggingface``, so that ``datasets.load_dataset`` and the hub's viewer need no code. Masks are run lengths; answers to
questions also have small pictures that the viewer shows. Vectors are float32, which holds every float16.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.export.content import Asked, Item
from stages.export.form import Entries, Unit
from stages.export.png import bits

ROW_GROUP_IMAGES = 10
"""Images per row group; the viewer reads one row group at a time."""
UNIT_IMAGES = 100

Spec = Any
"""A type: the name of an Arrow type such as ``string``, ``image``, a list of one type, or a dict of types."""

_REGION = {"segmentation": "string", "bbox": ["int32"], "area": "int64"}
_COLUMNS: dict[str, dict[str, Spec]] = {
    "masks": {
        "masks": [{**_REGION, "predicted_iou": "float32", "stability_score": "float32", "point_coords": ["float64"]}]
    },
    "instances": {"instances": [{**_REGION, "label": "string"}]},
    "targets": {
        "targets": [
            {
                "target_id": "string",
                "texts": ["string"],
                "is_sentence": "bool",
                "kind": "string",
                "answer": "string",
                "instances": ["int32"],
                "absent": "bool",
                "segmentation": "string",
                "ignore": "string",
            }
        ],
        "target_masks": ["image"],
    },
    "predictions": {
        "predictions": [
            {
                "target_id": "string",
                "text_index": "int32",
                "rejected": "bool",
                "answer": "string",
                "segmentation": "string",
            }
        ],
        "prediction_masks": ["image"],
    },
}


def columns(asked: Asked) -> dict[str, Spec]:
    """The columns of the Parquet files with their types."""
    found: dict[str, Spec] = {"image": "image"} if asked.pictures != "none" else {}
    found |= {"image_id": "string", "image_index": "int64", "height": "int32", "width": "int32"}
    for what in asked.whats:
        found |= _COLUMNS[what]
    for encoder in asked.encoders:
        found |= {f"{what}_{encoder}": [["float32"]] for what in ("masks", "instances") if what in asked.whats}
    return found


def arrow_type(spec: Spec) -> pa.DataType:
    """The Arrow type of a column."""
    if isinstance(spec, list):
        return pa.list_(arrow_type(spec[0]))
    if isinstance(spec, dict):
        return pa.struct([(name, arrow_type(each)) for name, each in spec.items()])
    if spec == "image":
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.type_for_alias(spec)


def feature(spec: Spec) -> Any:
    """The feature of a column as ``datasets`` writes it."""
    if isinstance(spec, list):
        return [feature(spec[0])]
    if isinstance(spec, dict):
        return {name: feature(each) for name, each in spec.items()}
    return {"_type": "Image"} if spec == "image" else {"dtype": spec, "_type": "Value"}


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """The Parquet file of a run of images."""
    spec = columns(asked)
    info = {"info": {"features": {name: feature(each) for name, each in spec.items()}}}
    schema = pa.schema([(name, arrow_type(each)) for name, each in spec.items()], {"huggingface": json.dumps(info)})
    table = pa.Table.from_pylist([_row(asked, item) for item in items], schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(
        table, buffer, row_group_size=ROW_GROUP_IMAGES, write_page_index=True, compression="zstd", store_schema=True
    )
    of = -(-asked.images // UNIT_IMAGES)
    return Unit({f"data/{_split(asked)}-{number:05d}-of-{of:05d}.parquet": buffer.getvalue().to_pybytes()})


def finish(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The data set's card, ``README.md``."""
    yield "README.md", [_card(asked).encode()]


def _row(asked: Asked, item: Item) -> dict[str, Any]:
    row: dict[str, Any] = {"image_id": item.image_id, "image_index": item.image_index}
    row |= {"height": item.height_px, "width": item.width_px}
    if item.picture is not None:
        row["image"] = {"bytes": item.picture.data, "path": f"{item.image_index:09d}{item.suffix}"}
    for what in ("masks", "instances"):
        regions = getattr(item, what)
        if regions is not None:
            row[what] = [dict(region) for region in regions]
    if item.targets is not None:
        row["targets"] = item.targets
        row["target_masks"] = [_shown(item, target["segmentation"]) for target in item.targets]
    if item.predictions is not None:
        answers = [answer.prediction for answer in item.predictions]
        names = _COLUMNS["predictions"]["predictions"][0]
        row["predictions"] = [{name: getattr(each, name) for name in names} for each in answers]
        row["prediction_masks"] = [_shown(item, each.segmentation) for each in answers]
    for (what, encoder), vectors in item.vectors.items():
        row[f"{what}_{encoder}"] = vectors.astype("float32").tolist()
    return row


def _shown(item: Item, counts: str | None) -> dict[str, Any]:
    return {"bytes": bits(item.decoded(counts)), "path": None}


def _split(asked: Asked) -> str:
    """The name of the split as the hub allows it: letters, digits, dots and underscores."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", asked.split)


def _card(asked: Asked) -> str:
    split = _split(asked)
    head = [
        "---",
        f"pretty_name: {json.dumps(asked.name)}",
        "task_categories:",
        "- image-segmentation",
        "configs:",
        "- config_name: default",
        "  data_files:",
        f"  - split: {split}",
        f"    path: data/{split}-*.parquet",
        "---",
    ]
    whose = [f"Masks by the proposer `{asked.proposer}`."] if asked.proposer else []
    whose += [f"Predictions of the run `{asked.run}`."] if asked.run else []
    body = [
        f"# {asked.name}",
        "",
        " ".join(["Exported from an ELISA feature store. A row is an image.", *whose]),
        "",
        "## Columns",
        "",
        *(f"- `{name}`: {_about(name)}" for name in columns(asked)),
        "",
        "Masks are COCO run lengths in the frame of the picture turned as its EXIF tag says:",
        '`pycocotools.mask.decode({"size": [height, width], "counts": segmentation})`. A prediction without one is the empty mask.',
        "",
        "## Terms of the pictures",
        "",
        *([f"- {line}" for line in asked.terms] or ["- not known: find out before you publish this"]),
    ]
    return "\n".join([*head, "", *body, ""])


_ABOUT = {
    "image": "the picture",
    "image_id": "its name",
    "image_index": "its number in the split",
    "height": "in px, of the picture turned as its EXIF tag says",
    "width": "the same",
    "masks": "proposals, largest first; `bbox` is XYWH in px",
    "instances": "annotated regions; `bbox` is XYWH in px",
    "targets": "questions (`texts` are wordings of one), the numbers of their `instances`, the answer and ignored pixels",
    "target_masks": "the answers as pictures",
    "predictions": "what a run answered",
    "prediction_masks": "the same as pictures",
}


def _about(column: str) -> str:
    if column in _ABOUT:
        return _ABOUT[column]
    what, _, encoder = column.partition("_")
    return f"a vector for each of `{what}`, or for the largest of very many, by the encoder `{encoder}`"
