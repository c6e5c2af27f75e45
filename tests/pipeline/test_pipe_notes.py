"""What was odd about a process is noted with every shard that it computes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stages import notes as noted


def test_a_note_is_in_the_log_of_every_shard(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "_notes", {})
    said = "the GPU's kernel for masks is not used"
    noted.note(said)
    noted.note(said)
    tiny.build("index")
    logs = [json.loads(path.read_text())["run"] for path in tiny.store.rglob("log/*.json")]
    assert logs
    assert all(log["notes"] == [said] for log in logs)


def test_without_one_a_log_has_none(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted, "_notes", {})
    tiny.build("index")
    assert not any("notes" in json.loads(path.read_text())["run"] for path in tiny.store.rglob("log/*.json"))
