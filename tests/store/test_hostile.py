"""A store made to harm: a typed error, soon, and no memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import forge_record
from factory import small_store

from store import StoreError, open_split
from store.storage.files import digest
from store.write.verify import verify

COLUMN, COMMIT = "mask_embeddings/sam/x/val/column.json", "mask_embeddings/sam/x/val/c/0/0/0"


def forge(store: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a record and seal it again, as somebody who knows the format can."""
    path = store / "d" / name
    if path.suffix != ".json":
        forge_record(path, change)
        return
    value = json.loads(path.read_text())
    value.pop("checksum")
    change(value)
    path.write_text(json.dumps({**value, "checksum": digest(value)}))


FORGERIES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "more images than there can be": (COLUMN, lambda v: v.update(images=10**15)),
    "a negative number of images": (COLUMN, lambda v: v.update(images=-1)),
    "shards of nothing": (COLUMN, lambda v: v.update(shard_images=0)),
    "a row of terabytes": (COLUMN, lambda v: v["array"].update(row_shape=[2**30, 2**20])),
    "chunks of nothing": (COLUMN, lambda v: v["array"].update(chunk_rows=0)),
    "an object dtype": (COLUMN, lambda v: v["array"].update(dtype="O")),
    "no list of images": (COLUMN, lambda v: v.update(sources=[[1, 2, 3]])),
    "identity of another kind": (COLUMN, lambda v: v.update(identity=[])),
    "counts of another kind": (COMMIT, lambda v: v.update(counts="1111")),
    "negative counts": (COMMIT, lambda v: v.update(counts=[-1] * 4)),
    "more vectors than fit": (COMMIT, lambda v: v.update(counts=[10**9] * 4)),
    "status missing": (COMMIT, lambda v: v.update(status=["ok"])),
    "an unknown status": (COMMIT, lambda v: v.update(status=["fine"] * 4)),
    "a status of another kind": (COMMIT, lambda v: v.update(status=[["ok"]] * 4)),
    "checksums missing": (COMMIT, lambda v: v.update(crc32c=[1])),
    "upstream of another kind": (COMMIT, lambda v: v.update(upstream=["images"])),
    "upstream outside": (COMMIT, lambda v: v.update(upstream={"/../../etc#0": "x"})),
    "upstream without end": (COMMIT, lambda v: v.update(upstream={"/d/images/val#" + "9" * 5000: "x"})),
    "computed from itself": (COMMIT, lambda v: v.update(upstream={"mask_embeddings/sam/x": v["content"]})),
    "another place": (COMMIT, lambda v: v.update(place="d/mask_embeddings/sam/x/train")),
    "a newer format": (COMMIT, lambda v: v.update(format_version=3)),
    "fields of its own": (COMMIT, lambda v: v.update(run_this="rm")),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("what", FORGERIES)
def test_forged_records_are_typed_errors(tmp_path: Path, what: str) -> None:
    small_store(tmp_path, [3] * 4)
    forge(tmp_path, *FORGERIES[what])
    with pytest.raises(StoreError):
        open_split(tmp_path, "d", "val")[0]["mask_embeddings/sam/x"]
    report = verify(tmp_path, ["d/val"])
    assert report.problems or report.stale, what


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", '{"checksum": 1}', "[" * 100_000, '{"a": NaN, "checksum": ""}', "\x00\xff"]
)
@pytest.mark.parametrize("name", [COLUMN, COMMIT])
def test_what_is_no_record_is_a_typed_error(tmp_path: Path, name: str, text: str) -> None:
    small_store(tmp_path, [3] * 4)
    (tmp_path / "d" / name).write_text(text, encoding="latin-1")
    with pytest.raises(StoreError):
        open_split(tmp_path, "d", "val")
    assert verify(tmp_path, ["d/val"]).problems


def test_a_column_in_a_folder_with_a_forbidden_name_is_damage(tmp_path: Path) -> None:
    small_store(tmp_path, [3] * 4)
    (tmp_path / "d/bad name/val").mkdir(parents=True)
    (tmp_path / "d/bad name/val/column.json").write_text("{}")
    assert "no column can be here" in str(verify(tmp_path, ["d/val"]).problems[0])


def test_files_above_the_columns_are_seen(tmp_path: Path) -> None:
    small_store(tmp_path, [3] * 4)
    for name in ("notes.txt", "d/notes.txt", ".gitignore", "d/.gitignore"):  # DVC keeps lists of its outputs there
        (tmp_path / name).touch()
    found = [str(problem) for problem in verify(tmp_path, ["d/val"]).problems]
    assert found == ["d/notes.txt: unknown file; remove it", "notes.txt: unknown file; remove it"]
