"""A store that several files only read."""

from __future__ import annotations

import pytest
from borrowers import Lent, lent_store


@pytest.fixture(scope="session")
def lent(tmp_path_factory: pytest.TempPathFactory) -> Lent:
    """A holder and a borrower. Nobody writes into it: :func:`borrowers.copy_of`."""
    return lent_store(tmp_path_factory.mktemp("lent") / "store")
