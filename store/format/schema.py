"""Schemas of the tables. A comment at each field gives its meaning, frame and unit.

Masks and instances are COCO RLE counts (ASCII) in the frame of the EXIF-oriented image, height_px x width_px.
"""

from __future__ import annotations

import pyarrow as pa

OK, FAILED, REMOVED, ABSENT = "ok", "failed", "removed", "absent"
"""Values of ``status``. ABSENT: there are no data because the image has no annotation, or, in ``images``, because its holder does
not list it; nothing went wrong."""

_bbox = pa.list_(pa.int32(), 4)
_scores = pa.list_(pa.float32())

IMAGES = pa.schema(
    [
        ("image_index", pa.int64()),  # its number in the split, which never changes
        ("image_id", pa.string()),  # stable name
        ("path", pa.string()),  # relative to the root of the data set that holds the image, POSIX
        ("height_px", pa.int32()),  # of the EXIF-oriented image; 0 when it could not be read
        ("width_px", pa.int32()),
        ("sha256", pa.string()),  # of the file's bytes; empty when there is no file
        ("status", pa.string()),  # ok | failed | removed
        ("error", pa.string()),  # the reason; if ok, null or what was odd about the file
        ("holder_split", pa.string()),  # of an image that is borrowed: where it is; else null
        ("holder_index", pa.int64()),  # its image_index there
    ]
)

INSTANCES = pa.schema(
    [
        ("image_index", pa.int64()),
        ("status", pa.string()),  # ok | failed | removed | absent
        ("error", pa.string()),
        ("segmentation", pa.list_(pa.string())),  # COCO RLE counts, largest painted first
        ("bbox", pa.list_(_bbox)),  # XYWH px
        ("area", pa.list_(pa.int64())),  # px
        ("label", pa.list_(pa.string())),
    ]
)

TARGETS = pa.schema(
    [
        ("target_id", pa.string()),
        ("image_index", pa.int64()),
        ("instances", pa.list_(pa.int32())),  # numbers of the image's instances; may be empty
        ("texts", pa.list_(pa.string())),  # the question and its rephrasings
        ("is_sentence", pa.bool_()),  # long (sentence) or short (phrase) query
        ("kind", pa.string()),  # what sort of question, e.g. reasonseg
        ("answer", pa.string()),  # explanatory answer, or null
        ("segmentation", pa.string()),  # COCO RLE counts of the answer as painted
        ("ignore", pa.string()),  # COCO RLE counts of the pixels that do not count
        ("absent", pa.bool_()),  # the annotation says that the image shows nothing of the kind (a false premise)
        ("correction", pa.string()),  # of a false premise: what could be asked instead, else null
        ("incomplete", pa.bool_()),  # the image may show more of it than is annotated (a federated data set)
        ("turns", pa.list_(pa.string())),  # of a conversation: question, answer, question, ...; else empty
    ]
)

_verdict = pa.struct(
    [
        ("step", pa.string()),  # verify, control or person
        ("model", pa.string()),  # null for a person
        (
            "said",
            pa.string(),
        ),  # as parsed: yes, no or other; labels or unknown for control; keep or reject for person; empty if unreadable
        ("response", pa.string()),  # the first 2000 characters of the answer, or the question in a person's words
    ]
)
MADE = pa.field(
    "made",
    pa.struct(
        [
            ("prompt", pa.string()),  # messages that the question came from, JSON [[role, text], ...]
            ("response", pa.string()),  # the model's whole answer
            ("model", pa.string()),  # as the endpoint names it
            ("verdicts", pa.list_(_verdict)),
            ("usd", pa.float64()),  # of all requests about it, with its share of those about its image
        ]
    ),
)
"""A further field of ``targets`` of generated questions: how each was made."""

MASKS = pa.schema(
    [
        ("image_index", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("segmentation", pa.list_(pa.string())),  # COCO RLE counts; masks are sorted by area, largest first
        ("bbox", pa.list_(_bbox)),  # XYWH px
        ("area", pa.list_(pa.int64())),  # px
        ("predicted_iou", _scores),  # SAM's own estimate
        ("stability_score", _scores),
        ("point_coords", pa.list_(pa.list_(pa.float64(), 2))),  # XY px, the prompt that gave the mask
        ("crop_box", pa.list_(_bbox)),  # XYWH px, the crop that gave the mask
    ]
)

MATCH_TARGETS = pa.schema(
    [
        ("target_id", pa.string()),
        ("image_index", pa.int64()),
        ("iou", _scores),  # [K], ignored pixels count as background (LLM-Seg's training targets)
        ("iop", _scores),  # [K], intersection over the proposal's area
        ("iou_valid", _scores),  # [K], ignored pixels removed from both (LISA's metric)
        ("iop_valid", _scores),
    ]
)

MATCH_INSTANCES = pa.schema(
    [
        ("image_index", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("iou", pa.list_(_scores)),  # [K][G]: mask k against instance g
        ("iop", pa.list_(_scores)),
    ]
)

TABLES = {
    "images": IMAGES,
    "instances": INSTANCES,
    "targets": TARGETS,
    "masks": MASKS,
    "match/targets": MATCH_TARGETS,
    "match/instances": MATCH_INSTANCES,
}
"""Column name -> schema of every table."""

SINCE = {"targets": ("absent", "correction", "incomplete", "turns")}
"""Table -> fields that older shards lack, because they were written before these fields existed. They are read as null."""

PER_TARGET = ("targets", "match/targets")
"""Tables with a row per target; all others have a row per image."""
