"""A store at a web server: read by ranges, columns by name, never written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from borrowers import Lent, X
from factory import Known, full_store

from store import StoreError, open_split
from store.storage.objects import write_json
from tests.benchmarks.link import linked

COLUMNS = ["masks/sam", "mask_embeddings/sam/x", "targets"]


@pytest.fixture(scope="module")
def served(lent: Lent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Known]]:
    """Address of a folder with a store, and one with a borrower, at a server; and what the store holds."""
    root = tmp_path_factory.mktemp("web")
    known = full_store(root / "own/store")
    (root / "lent").symlink_to(lent.store)
    with linked(root, latency_ms=0, mb_s=1e4) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELISA_CACHE", "")
        yield found.address, known


def test_columns_are_opened_by_name(served: tuple[str, Known]) -> None:
    address, known = served
    split = open_split(f"{address}/own/store", "d", "val", columns=COLUMNS)
    for image, want in enumerate(known.embeddings):
        np.testing.assert_array_equal(split[image]["mask_embeddings/sam/x"], want)
    by_proposer = open_split(f"{address}/own/store", "d", "val", columns=["masks", "mask_embeddings/x"], proposer="sam")
    assert set(by_proposer.columns) == {"images", "masks/sam", "mask_embeddings/sam/x"}
    batches = list(split.stream(["mask_embeddings/sam/x", "targets.texts"], 2, shuffle=True))
    assert sum(len(batch["image_index"]) for batch in batches) == len(known.embeddings)


def test_a_borrower_reads_what_its_holder_has(served: tuple[str, Known], lent: Lent) -> None:
    address, _ = served
    there, here = (
        open_split(store, "words", "test", columns=[X, "targets"]) for store in (f"{address}/lent", lent.store)
    )
    for image in lent.linked:
        np.testing.assert_array_equal(there[image][X], here[image][X])
        assert there[image].targets == here[image].targets


def test_what_cannot_be_done_is_said(served: tuple[str, Known]) -> None:
    address, _ = served
    store = f"{address}/own/store"
    with pytest.raises(StoreError, match=rf"^{store}: a web server does not list what it holds: name the columns"):
        open_split(store, "d", "val")
    with pytest.raises(
        StoreError, match=rf"{store}/d/images/tset holds no indexed split; there is no such file at {store}"
    ):
        open_split(store, "d", "tset", columns=COLUMNS)
    with pytest.raises(StoreError, match="no column masks/sma; found images"):
        open_split(store, "d", "val", columns="masks/sma")
    with pytest.raises(StoreError, match="can be read, and not be written"):
        write_json(Path(store) / "d/images/val/column.json", {})
    with pytest.raises(StoreError, match=r"found a user in the address https://\.\.\.@host, expected") as told:
        open_split("https://me:secret@host/store", "d", "val", columns=COLUMNS)
    assert "secret" not in str(told.value)


def test_a_server_without_ranges_is_named(tmp_path: Path) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    full_store(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StoreError, match="does not give ranges of files, which reading a store needs"):
            open_split(f"http://127.0.0.1:{server.server_port}", "d", "val", columns=COLUMNS)
        server.shutdown()
