"""The file of predictions: what is written comes back, and what is wrong is told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.evaluate import Meta, Prediction, PredictionError, read, write
from store import rle

MASK = rle.encode(np.eye(4, dtype=bool))
META = Meta("llmseg", "demo", "val", "teacher_forced", "proposals+gt")
PREDICTIONS = [
    Prediction("0001/0", 0, MASK, False, (3, -1), "It is [SEG]."),
    Prediction("0001/0", 2, None, False, (), ""),
    Prediction("0002/1", 0, None, True, None, "[REJ] — nothing"),
    Prediction("0002/2", 0, MASK, True, None, "said and shown, as GSVA does"),
    Prediction("0002/3", 0, MASK, None),
]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "val.parquet"
    write(path, META, iter(PREDICTIONS))
    assert read(path) == (META, PREDICTIONS)
    assert [file.name for file in path.parent.iterdir()] == ["val.parquet"]
    first = path.read_bytes()
    write(path, META, PREDICTIONS[:1])
    assert read(path) == (META, PREDICTIONS[:1])
    write(path, META, PREDICTIONS)
    assert path.read_bytes() == first


def test_any_parquet_reader_sees_plain_columns(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    write(path, META, PREDICTIONS)
    table = pq.read_table(path)
    expected = [asdict(prediction) for prediction in PREDICTIONS]
    assert not any(row.pop("is_box") for row in expected)
    assert [
        {**row, "chosen": None if row["chosen"] is None else tuple(row["chosen"])} for row in table.to_pylist()
    ] == expected
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    found = asdict(META)
    assert found.pop("texts") == "first"
    assert "texts" not in metadata, "files are as they were before every text could be asked"
    assert found.items() <= metadata.items()


def test_the_file_says_that_every_text_was_asked(tmp_path: Path) -> None:
    meta = replace(META, texts="every")
    write(tmp_path / "val.parquet", meta, PREDICTIONS)
    assert read(tmp_path / "val.parquet") == (meta, PREDICTIONS)
    with pytest.raises(PredictionError, match="texts is 'all', expected one of first, every"):
        replace(META, texts="all")


def test_no_predictions_at_all(tmp_path: Path) -> None:
    write(tmp_path / "none.parquet", META, [])
    assert read(tmp_path / "none.parquet") == (META, [])


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    write(path, META, PREDICTIONS)
    before = path.read_bytes()
    with pytest.raises(pa.ArrowException):
        write(path, META, [replace(PREDICTIONS[0], chosen=(2**40,))])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["val.parquet"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: table.replace_schema_metadata({}), "prediction_format is None, expected '1'"),
        (lambda table: table.replace_schema_metadata({**table.schema.metadata, b"prediction_format": b"2"}), "'2'"),
        (lambda table: table.drop_columns(["answer"]), "found the columns"),
        (lambda table: table.set_column(1, "text_index", pa.array([0.0, 1.0, 2.0, 0.0, 0.0])), "text_index: double"),
        (
            lambda table: table.replace_schema_metadata(
                {key: value for key, value in table.schema.metadata.items() if key not in (b"mode", b"split")}
            ),
            "lack split, mode",
        ),
        (
            lambda table: table.replace_schema_metadata({**table.schema.metadata, b"mode": b"guessed"}),
            "mode is 'guessed'",
        ),
        (
            lambda table: table.replace_schema_metadata({**table.schema.metadata, b"setting": b"all"}),
            "'all', expected one of proposals, proposals\\+gt",
        ),
    ],
)
def test_another_schema_or_format_is_an_error(tmp_path: Path, change: object, why: str) -> None:
    path = tmp_path / "val.parquet"
    write(path, META, PREDICTIONS)
    pq.write_table(change(pq.read_table(path)), path)  # type: ignore[operator]
    with pytest.raises(PredictionError, match=why):
        read(path)


@pytest.mark.parametrize("content", [b"", b"not parquet at all", b"PAR1 and then nothing PAR1"])
def test_other_files_are_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "val.parquet"
    path.write_bytes(content)
    with pytest.raises(PredictionError, match="not a Parquet file of predictions"):
        read(path)


def test_changed_bytes_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    write(path, META, [replace(PREDICTIONS[0], answer="which of these " * 50)])
    content = bytearray(path.read_bytes())
    content[content.index(b"which of these")] ^= 1
    path.write_bytes(content)
    with pytest.raises(PredictionError, match="not a Parquet file of predictions"):
        read(path)


def test_a_file_of_before_is_read(tmp_path: Path) -> None:
    """``rejected`` was never null in it, by its schema too."""
    path = tmp_path / "val.parquet"
    write(path, META, PREDICTIONS[:3])
    table = pq.read_table(path)
    place = table.schema.get_field_index("rejected")
    table = table.set_column(place, pa.field("rejected", pa.bool_(), nullable=False), table.column(place))
    pq.write_table(table, path)
    assert read(path) == (META, PREDICTIONS[:3])


def test_a_row_without_a_target_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    write(path, META, PREDICTIONS)
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "target_id", pa.array(["a", None, "b", "c", "d"])), path)
    with pytest.raises(PredictionError, match="found the columns"):
        read(path)


def test_a_negative_text_is_an_error() -> None:
    with pytest.raises(PredictionError, match="a/0: text_index is -1"):
        Prediction("a/0", -1, None, False)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"segmentation": MASK}, "rejected, but has a mask.*--protocol gsva"),
        ({"chosen": (0,)}, "rejected, but has a mask"),
        ({"segmentation": "no counts"}, "a/0: segmentation: counts have ' '"),
    ],
)
def test_contradictions_are_errors(fields: dict[str, object], why: str) -> None:
    found = Prediction(**{"target_id": "a/0", "text_index": 0, "segmentation": None, "rejected": True, **fields})  # type: ignore[arg-type]
    with pytest.raises(PredictionError, match=why):
        found.require_one_answer()
    Prediction("a/0", 0, MASK, None).require_one_answer()
    Prediction("a/0", 0, None, True).require_one_answer()


def test_an_empty_mask_may_be_written_out() -> None:
    empty = Prediction("a/0", 0, rle.encode(np.zeros((4, 4), bool)), rejected=True)
    assert empty.is_empty
    assert not PREDICTIONS[0].is_empty


def test_it_is_a_value_error() -> None:
    assert issubclass(PredictionError, ValueError)


def test_metadata_of_another_tool_may_be_no_text(tmp_path: Path) -> None:
    path = tmp_path / "val.parquet"
    write(path, META, PREDICTIONS)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"tool": b"\xff"}), path)
    assert read(path) == (META, PREDICTIONS)
