"""``make check-readers``: zarr-python, zarrs, tensorstore and pyarrow give back the same bytes of a store as its own reader.

Also that each of them notices a flipped byte of the data and of an array's index. Without ``--store`` a small store is
written for it, with every kind of column.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from store import open_split
from store.format.arrays import no_value
from store.format.column import ArrayLayout, ColumnMeta, fingerprint
from store.format.layout import column_dir
from store.read.column import Column, open_column
from tests.store.factory import full_store, vectors, write_array, write_vectors

Opened = tuple[tuple[int, ...], Callable[[Any], Any]]
"""Shape of an array, and what reads an index of it."""

LAYOUTS = {
    "image_features/tokens": ArrayLayout((9, 5), 9, "float16", dimension_names=("image", "patch", "dim")),
    "sam_features/x": ArrayLayout((3, 4, 2), 3, "float16", ("image", "channel", "y", "x")),
    "sam_features/int8/x": ArrayLayout((3, 4, 2), 3, "int8", ("image", "channel", "y", "x")),
    "sam_features/scale/x": ArrayLayout((4, 2), 4, "float16", ("image", "y", "x")),
}
"""Arrays that are not part of a :func:`tests.store.factory.full_store`."""
MEAN = "means/m/sam/x"


class ReaderError(Exception):
    """A reader gives something else than what is in the store."""


def with_zarr(pipeline: str) -> Callable[[Path], Opened]:
    """What opens an array with zarr-python and one of its pipelines."""

    def opened(folder: Path) -> Opened:
        strict = (
            {"codec_pipeline.strict": True} if pipeline.startswith("zarrs") else {}
        )  # else it hands over in silence
        with zarr.config.set({"codec_pipeline.path": pipeline, **strict}):
            array = zarr.open_array(folder, mode="r")
        if f"{type(array.async_array.codec_pipeline).__name__}" != pipeline.rpartition(".")[2]:
            raise ReaderError(f"{folder} was opened by {array.async_array.codec_pipeline}, expected {pipeline}")
        return array.shape, array.__getitem__

    return opened


def with_tensorstore(folder: Path) -> Opened:
    """Open an array with tensorstore."""
    import tensorstore

    where = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    array = tensorstore.open(where, read=True).result()
    return tuple(array.shape), lambda index: array[index].read().result()


READERS: dict[str, Callable[[Path], Opened]] = {
    "zarr": with_zarr("zarr.core.codec_pipeline.BatchedCodecPipeline"),
    "zarrs": with_zarr("zarrs.ZarrsCodecPipeline"),
    "tensorstore": with_tensorstore,
}
"""Package -> what opens an array with it."""


def make_store(store: Path) -> None:
    """``d/val``: every table and array, three shards, the last of them partial, and a mean."""
    known = full_store(store)
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        counts = [layout.row_shape[0] * (image != 5) for image in range(len(known.masks))]
        write_vectors(store, f"d/{name}/val", vectors(counts, layout, number), {"images": known.images}, layout=layout)
    mean = ColumnMeta(MEAN, {}, fingerprint({}), 1, 1, ArrayLayout((8,), 8, "float64", dimension_names=("mean", "dim")))
    write_array(column_dir(store, MEAN), mean, [8], MEAN)


def check_array(folder: Path, column: Column, open_with: Callable[[Path], Opened]) -> None:
    """Whole, image by image and in parts: what our reader gives, and NaN (of int8, -128) wherever there is no vector."""
    layout = column.meta.array
    assert layout is not None
    expected = np.full((column.meta.images, *layout.row_shape), no_value(layout.dtype), layout.dtype)
    for image in range(column.meta.images):
        if column.is_ok(image):
            vectors_of_image = column.array(image)
            expected[image, : len(vectors_of_image)] = vectors_of_image
    shape, read = open_with(folder)
    if shape != expected.shape:
        raise ReaderError(f"found the shape {shape}, expected {expected.shape}")
    parts: list[Any] = [slice(None), (slice(1, None), slice(1, 2)), *range(len(expected))]
    for part in parts:
        found = np.asarray(read(part))
        if found.dtype != expected.dtype or not np.array_equal(
            found, expected[part], equal_nan=expected.dtype.kind == "f"
        ):
            raise ReaderError(f"found other values than our reader at {part}")


def check_table(folder: Path, column: Column) -> None:
    """Every shard, as our reader gives it."""
    for shard in range(column.meta.shards):
        if not read_parquet(folder / f"{shard:05d}.parquet").equals(column.table(shard)):
            raise ReaderError(f"found other rows than our reader in shard {shard}")


def read_parquet(path: Path) -> pa.Table:
    """With its pages' checksums compared, which pyarrow does when it is asked to."""
    return pq.read_table(path, page_checksum_verification=True)


def check_frames(store: Path) -> int:
    """Every table of ``d/val`` as a data frame, and back, is what our reader gives; how many there are."""
    split = open_split(store, "d", "val")
    names = [name for name, column in split.columns.items() if column.meta.array is None]
    for name in names:
        table = split.to_arrow(name)
        if not pa.Table.from_pandas(split.to_pandas(name), table.schema, preserve_index=False).equals(table):
            raise ReaderError(f"pandas: {name}: found other rows than our reader")
    return len(names)


def damage_array(folder: Path, open_with: Callable[[Path], Opened]) -> None:
    """A flipped bit of a chunk, and one of the index, must be noticed."""
    file = next(path for path in (folder / "c/0").rglob("0") if path.is_file())
    for position in (0, -4 - 16):
        refused(file, position, lambda: open_with(folder)[1](slice(None)))


def damage_table(folder: Path) -> None:
    """A flipped bit of a page must be noticed: in the last byte of the first field's values of the first row group."""
    file = folder / "00000.parquet"
    field = pq.read_metadata(file).row_group(0).column(0)
    last = (field.dictionary_page_offset or field.data_page_offset) + field.total_compressed_size - 1
    refused(file, last, lambda: read_parquet(file))


def refused(path: Path, position: int, read: Callable[[], Any]) -> None:
    """Raises unless ``read`` raises while a bit of the file's byte ``position`` is flipped."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[position] ^= 1
    try:
        path.write_bytes(bad)
        read()
    except ReaderError:
        raise
    except Exception:  # noqa: BLE001 - each reader has its own
        return
    finally:
        path.write_bytes(good)
    raise ReaderError(f"read {path} although byte {position} was flipped")


def check_store(store: Path, readers: dict[str, Callable[[Path], Opened]], damage: bool) -> dict[str, int]:
    """Reader -> how many columns it was compared on. Raises :class:`ReaderError` at the first difference.

    Args:
        store: of format 2; each column is opened by itself, so it may be a part of a store.
        readers: of arrays, out of :data:`READERS`; tables are read with pyarrow.
        damage: flip bits of the store, each for a moment.
    """
    done = dict.fromkeys([*readers, "pyarrow"], 0)
    for folder in sorted(path.parent for path in store.rglob("column.json")):
        place = folder.relative_to(store).as_posix()
        column = open_column(store, place)
        for name in readers if column.meta.array else ["pyarrow"]:
            try:
                if column.meta.array:
                    check_array(folder, column, readers[name])
                    if damage:
                        damage_array(folder, readers[name])
                else:
                    check_table(folder, column)
                    if damage:
                        damage_table(folder)
            except ReaderError as error:
                raise ReaderError(f"{name}: {place}: {error}") from None
            done[name] += 1
    return done


def main() -> int:
    """Print what each reader was compared on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="one of yours instead; nothing in it is changed")
    store = parser.parse_args().store
    try:
        if store is not None:
            done = check_store(store, READERS, damage=False)
        else:
            with tempfile.TemporaryDirectory() as folder:
                make_store(Path(folder))
                done = check_store(Path(folder), READERS, damage=True) | {"pandas": check_frames(Path(folder))}
    except ReaderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, count in done.items():
        kind = "table" if name in ("pyarrow", "pandas") else "array"
        print(f"{name} {importlib.metadata.version(name)}: {count} {kind} columns, the same as our reader")
    return 0 if all(done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
