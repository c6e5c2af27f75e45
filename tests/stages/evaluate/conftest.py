"""A small split with every table: images of 4 x 6 px, several targets each, empty ones and ignored pixels among them."""

from __future__ import annotations

import pytest
from factory import Known, full_store

from store import Split, open_split


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="session")
def split(known: Known) -> Split:
    return open_split(known.store, "d", "val")
