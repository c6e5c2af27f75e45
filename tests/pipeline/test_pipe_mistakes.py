"""Each mistake of the table gets a message that says what, where, what was expected and what to type; and that works when typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from answering import answers_of, guesses, run_of
from mistakes.mistake import check
from mistakes.table import ROWS, TABLE

from tests.s3 import Server


@pytest.fixture(scope="module")
def trained_once(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished run ``elisa``, of a single step. Read only."""
    project = finished_once.copy(tmp_path_factory.mktemp("trained"))
    project.configure(train__epochs=1, train__batch_size=3, train__elisa__max_new_tokens=4)
    done = project.run("train", "--system", "elisa")
    assert done.code == 0, done.err
    return project


@pytest.fixture(scope="module")
def answered_once(trained_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """And its answers to ``val``, and those of a run ``lisa`` that has no model. Read only."""
    project = copy_of(trained_once, tmp_path_factory.mktemp("answered"))
    done = project.run("evaluate", "--system", "elisa", "--split", "val")
    assert done.code == 0, done.err
    run_of(project, "lisa")
    answers_of(project, "lisa", "tiny/val", guesses(["fox/0", "gnu/0", "hen/0"], 1, (48, 64)))
    return project


def copy_of(project: Any, folder: Path) -> Any:
    """The same project elsewhere, with its parameters."""
    other = project.copy(folder)
    other.configure(train__epochs=1, train__batch_size=3, train__elisa__max_new_tokens=4)
    return other


@pytest.fixture
def trained(trained_once: Any, tmp_path: Path) -> Any:
    return copy_of(trained_once, tmp_path)


@pytest.fixture
def answered(answered_once: Any, tmp_path: Path) -> Any:
    return copy_of(answered_once, tmp_path)


@pytest.fixture
def in_a_bucket(finished: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished project, and a bucket of the name ``bucket``."""
    server.bucket()
    return finished


def test_the_table_is_as_long_as_promised() -> None:
    assert len(ROWS) == sum(map(len, TABLE.values())) >= 100


@pytest.mark.parametrize("name", ROWS)
def test_the_message_helps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    row = ROWS[name]
    project = request.getfixturevalue(row.on)
    with monkeypatch.context() as patch:
        check(row, project, patch)
