"""Tar shards as ``webdataset`` reads them: ``000000.tar`` with ``<key>.jpg``, ``<key>.json`` and ``<key>.npy``.

The key is the image_index in nine digits: a name from the data could hold a dot, which ends a key. The headers hold no time and no
user, so that the same images give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from stages.export.content import Asked, Item, as_json
from stages.export.form import Unit

SUFFIXES = {".jpeg": ".jpg", ".tiff": ".tif"}
"""Suffixes that are written as another one."""


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """One shard, or none where no image is left."""
    if not items:
        return Unit()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item in items:
            for ending, data in _parts(item):
                member = tarfile.TarInfo(f"{item.image_index:09d}{ending}")
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))
    return Unit({f"{number:06d}.tar": buffer.getvalue()})


def _parts(item: Item) -> Iterator[tuple[str, bytes]]:
    if item.picture is not None:
        yield SUFFIXES.get(item.suffix, item.suffix), item.picture.data
    yield ".json", json.dumps(as_json(item), ensure_ascii=False).encode()
    for (what, encoder), vectors in item.vectors.items():
        buffer = io.BytesIO()
        np.save(buffer, vectors, allow_pickle=False)
        yield (".npy" if len(item.vectors) == 1 else f".{what}.{encoder}.npy"), buffer.getvalue()
