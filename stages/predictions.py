"""The format of predictions: a Parquet file with what a system answered to each question of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from store import rle
from store.errors import RleError
from store.storage.files import make_folder
from store.storage.leftovers import replace_file

FORMAT = 1
MODES = ("generated", "teacher_forced")
SETTINGS = ("proposals", "proposals+gt")
"""What a system chose from: a proposer's masks, or these and the annotated instances (ELISA's two settings)."""

TEXTS = ("first", "every")
"""Which texts of each target a system was asked."""

_OURS = ("run", "answering", "columns", "texts")
"""Metadata that only files made by this project's ``evaluate`` need."""
_FORMAT_KEY = "prediction_format"
_SCHEMA = pa.schema(
    [
        pa.field("target_id", pa.string(), nullable=False),
        pa.field("text_index", pa.int32(), nullable=False),  # which of the target's texts was asked
        pa.field("segmentation", pa.string()),  # COCO RLE counts in the image's frame; null is the empty mask
        pa.field("rejected", pa.bool_()),  # the system said that there is no such thing; null: unknown
        pa.field("chosen", pa.list_(pa.int32())),  # numbers of masks, -1 - j for instance j; null: no choice
        pa.field("answer", pa.string(), nullable=False),  # the system's text
    ]
)


def write(path: Path, meta: Meta, predictions: Iterable[Prediction]) -> None:
    """Write predictions to a Parquet file; it appears whole or not at all."""
    rows = [{name: getattr(prediction, name) for name in _SCHEMA.names} for prediction in predictions]
    metadata = {_FORMAT_KEY: str(FORMAT), **asdict(meta)}
    if meta.texts == TEXTS[0]:
        del metadata["texts"]  # files written before there was another format
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA.with_metadata(metadata)), buffer, write_page_checksum=True)
    make_folder(path.parent)
    replace_file(path, buffer.getvalue().to_pybytes())


def read(path: Path) -> tuple[Meta, list[Prediction]]:
    """Read a file that :func:`write` made. Raises the same errors as :func:`read_table`."""
    meta, table = read_table(path)
    return meta, [Prediction(**{**row, "chosen": _as_tuple(row["chosen"])}) for row in table.to_pylist()]


def read_table(path: Path, columns: Sequence[str] | None = None) -> tuple[Meta, pa.Table]:
    """The predictions in a file as a table, one row per prediction, or some columns of it.

    Raises:
        PredictionError: the file is not a Parquet file, or has another schema or format.
    """
    with _opened(path) as file:
        schema = file.schema_arrow
        meta = _meta(path, schema)
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    whole = [field.name for field in _SCHEMA if not field.nullable and field.name in table.schema.names]
    if any(table.column(name).null_count for name in whole):
        raise _another_schema(path, schema)
    return meta, table


def read_meta(path: Path) -> Meta:
    """The metadata of a file, without reading its predictions; raises the same errors as :func:`read`."""
    with _opened(path) as file:
        schema = file.schema_arrow
    return _meta(path, schema)


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with path.open("rb") as file:
            yield pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise PredictionError(f"{path}: not a Parquet file of predictions: {error}") from error


def _meta(path: Path, schema: pa.Schema) -> Meta:
    found = (schema.metadata or {}).items()
    metadata = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found}
    if metadata.get(_FORMAT_KEY) != str(FORMAT):
        raise PredictionError(f"{path}: {_FORMAT_KEY} is {metadata.get(_FORMAT_KEY)!r}, expected {str(FORMAT)!r}")
    if _plain(schema) != _plain(_SCHEMA):
        raise _another_schema(path, schema)
    names = [field.name for field in fields(Meta)]
    needed = [field.name for field in fields(Meta) if field.name not in _OURS]
    if lacking := [name for name in needed if name not in metadata]:
        raise PredictionError(f"{path}: the metadata lack {', '.join(lacking)}; expected {', '.join(needed)}")
    return Meta(**{name: metadata[name] for name in names if name in metadata})


def _another_schema(path: Path, schema: pa.Schema) -> PredictionError:
    return PredictionError(f"{path}: found the columns\n{schema.remove_metadata()}\nexpected\n{_SCHEMA}")


def _plain(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    """Names and types of the fields. Whether a field may be null differs between formats, so nulls are counted instead."""
    return [(field.name, field.type) for field in schema]


def _as_tuple(chosen: list[int] | None) -> tuple[int, ...] | None:
    return None if chosen is None else tuple(chosen)


class PredictionError(ValueError):
    """Predictions are malformed, or do not fit the split; says what was found, where and what was expected."""


@dataclass(frozen=True)
class Meta:
    """Where the predictions of a file come from.

    Args:
        system: name of the system, as tables show it.
        dataset, split: which questions.
        mode: ``generated``, or ``teacher_forced`` (the answer's text was in the input, as in the validation of LISA and
            LLM-Seg); figures of the two modes are not comparable.
        setting: what the system chose from, ``proposals`` or ``proposals+gt``.
        run: sha256 (hex) of the run that answered (stages/train/run_digest.py); empty for predictions made elsewhere.
        answering: the parameters that decide how a trained system answers: a JSON object, names below ``train``.
        columns: what it read of the split: a JSON object, column -> sha256 (hex) of the column's fingerprint and contents.
        texts: which texts of each target were asked, the ``first`` or ``every`` one.
    """

    system: str
    dataset: str
    split: str
    mode: str = "generated"
    setting: str = "proposals"
    run: str = ""
    answering: str = "{}"
    columns: str = "{}"
    texts: str = "first"

    def __post_init__(self) -> None:
        for name, choices in (("mode", MODES), ("setting", SETTINGS), ("texts", TEXTS)):
            if getattr(self, name) not in choices:
                raise PredictionError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")


@dataclass(frozen=True)
class Prediction:
    """A system's answer to one text of a target.

    Args:
        target_id, text_index: which question.
        segmentation: COCO RLE counts in the frame of the EXIF-oriented image; None is the empty mask.
        rejected: the system said that nothing of the kind is there (``[REJ]``); None: not known. It enters a separate figure;
            whether an answer is empty depends on its mask.
        chosen: numbers of the image's masks it chose, -1 - j for instance j; None where it does not choose proposals.
        answer: the system's text.
        is_box: the mask is a filled box; this is not stored in files.

    Raises:
        PredictionError: ``text_index`` is negative.
    """

    target_id: str
    text_index: int
    segmentation: str | None
    rejected: bool | None
    chosen: tuple[int, ...] | None = None
    answer: str = ""
    is_box: bool = False

    def __post_init__(self) -> None:
        if self.text_index < 0:
            raise PredictionError(f"{self.target_id}: text_index is {self.text_index}, expected 0 or more")

    def require_one_answer(self) -> None:
        """Raise PredictionError if it is rejected and has a mask: only the protocols gsva and gres say what that means."""
        if self.rejected and (self.chosen or not self.is_empty):
            raise PredictionError(
                f"{self.target_id}: it is rejected, but has a mask; expected one or the other. GSVA's answers have both: score "
                "them by --protocol gsva (or gres)"
            )

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is predicted."""
        try:
            return self.segmentation is None or rle.area(self.segmentation) == 0
        except RleError as error:
            raise PredictionError(f"{self.target_id}: segmentation: {error}") from error
