"""A real storage that ignores conditions, npm's s3rver: writing is refused. (Nothing is read: its lists are not those of S3.)

``npm install s3rver`` anywhere, and its folder ``node_modules/.bin`` in PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from factory import small_store

from store import StoreError
from store.storage.listing import files_below
from store.storage.mounts import mounted
from store.storage.remote import RemoteStorage
from tests.s3 import environment, free_port

pytestmark = pytest.mark.skipif(
    shutil.which("s3rver") is None or shutil.which("node") is None,
    reason="needs node and s3rver in PATH (npm install s3rver)",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where s3rver keeps the bucket ``bench``, served while the tests run."""
    data, port = tmp_path_factory.mktemp("s3rver"), free_port()
    command = ["s3rver", "--directory", str(data), "--address", "127.0.0.1", "--port", str(port), "--silent"]
    own = {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER"}  # the only key that it knows
    with subprocess.Popen([*command, "--configure-bucket", "bench"]) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment(f"http://127.0.0.1:{port}"), **own}.items():
            patch.setenv(name, value)
        try:
            wait_for(f"http://127.0.0.1:{port}")
            with mounted(Path("s3://bench"), RemoteStorage("s3", "bench")):
                yield data
        finally:
            server.terminate()


def wait_for(address: str) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(address)


def test_writing_is_refused_and_names_what_is_ignored(folder: Path) -> None:
    with pytest.raises(
        StoreError, match=r"^s3://bench ignores put-if-absent \(If-None-Match\) and replace-if-unchanged"
    ) as told:
        small_store(Path("s3://bench/store"), [3, 0, 2])
    assert "two writers would overwrite each other's shards" in str(told.value)
    assert files_below(Path("s3://bench")) == []
