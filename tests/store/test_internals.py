"""One test for each function of store.internals: what it rests on still holds in these versions of Python and libraries."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from pickle import loads

import google_crc32c
import numpy as np
import pytest
import torch
from factory import write_images

from store import StoreError, open_split
from store.internals import _find_crc32c, crc32c_at, sendable, signalled, unheld

ROOT = Path(__file__).parents[2]


def test_unheld() -> None:
    buffers = [np.empty(8, np.uint8) for _ in range(3)]
    assert unheld([]) is None
    assert unheld(buffers) is not None
    view = buffers[0].view(np.float32).reshape(2, 1)[1:]
    tensor = torch.from_numpy(buffers[1].reshape(2, 4)).T
    held = memoryview(buffers[2])
    assert unheld(buffers) is None
    del tensor
    assert np.shares_memory(unheld(buffers), buffers[1])  # type: ignore[arg-type]
    del view
    assert np.shares_memory(unheld(buffers), buffers[0])  # type: ignore[arg-type]
    del held
    del buffers[:2]
    assert unheld(buffers) is not None


@pytest.mark.parametrize("length", [0, 1, 100, (1 << 17) - 1, 1 << 17, 1 << 20])
def test_crc32c_at(length: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, length + 1, np.uint8)[1:]  # not aligned
    assert crc32c_at(data.ctypes.data, length) == google_crc32c.value(data.tobytes())


def test_crc32c_at_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c._crc32c", None)
    data = np.arange(100, dtype=np.uint8)
    for function in _find_crc32c():
        assert function(0, data.ctypes.data, 100) == google_crc32c.value(data.tobytes())


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_paused(tmp_path: Path, enabled: bool) -> None:
    """Opening a split leaves the collector of garbage as it was, also where it fails."""
    write_images(tmp_path, 4)
    (gc.enable if enabled else gc.disable)()
    try:
        open_split(tmp_path, "d", "val")
        assert gc.isenabled() == enabled
        with pytest.raises(StoreError):
            open_split(tmp_path, "d", "val", columns=["none"])
        (tmp_path / "d/images/val/00000.parquet").write_text("no table")
        with pytest.raises(StoreError):
            open_split(tmp_path, "d", "val")
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_sendable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what is in it")
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    pickled = ForkingPickler.dumps(sendable(descriptor))
    own = loads(pickled).detach()
    os.close(descriptor)
    assert os.pread(own, 100, 0) == b"what is in it"
    os.close(own)


def test_signalled() -> None:
    """As torch's handler of SIGCHLD does, a handler raises a moment after the pipe broke."""
    assert isinstance(signalled(RuntimeError("at once")), RuntimeError)
    broken = EOFError("the pipe is gone")
    assert signalled(broken, wait_s=0) is broken

    def told(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed")

    before = signal.signal(signal.SIGUSR1, told)
    try:
        threading.Timer(0.05, signal.raise_signal, [signal.SIGUSR1]).start()
        assert str(signalled(broken)) == "DataLoader worker (pid 7) is killed"
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_arrow_with_system_memory() -> None:
    """In a forked child alone, where the store and Arrow are loaded; what Arrow allocated before stays readable."""
    code = """
import os, pyarrow as pa, store.forks
before = pa.array(range(1000))
pool = pa.default_memory_pool().backend_name
if (child := os.fork()) == 0:
    good = pa.default_memory_pool().backend_name == "system" and before.to_pylist() == list(range(1000))
    os._exit(0 if good and len(pa.allocate_buffer(1 << 20)) == 1 << 20 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert pa.default_memory_pool().backend_name == pool
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
