"""Shared by all tests: one torch thread per process, nothing from the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.s3 import Server, serving

LONGEST = (
    "test_pipe_dvc.py",
    "test_wheel.py",
    "test_docs.py",
    "test_adding.py",
    "test_gpu_parts.py",
    "test_pipe_mistakes.py",
)

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "true"


def _without_the_disk(file: Any) -> None:
    """What fsync says of a closed file, without its wait: no power fails here.

    Which fsync is needed is proved in ``store/test_faults_power.py``; commands in processes of their own call the real one.
    """
    os.fstat(file if isinstance(file, int) else file.fileno())


os.fsync = _without_the_disk


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files are begun first: one that is begun last keeps one worker busy while the other has nothing to do."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """S3's protocol on this machine, for the tests of a file that asks for it; its environment is that of a client."""
    with serving() as found:
        yield found
