"""A GPU for each Dask worker, without a GPU: what the workers see in their environment, and what is said of those that share."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from pipeline.dask import cards
from pipeline.dask.checkout import Checkout
from pipeline.dask.crew import Answer, Crew


@pytest.mark.parametrize(
    ("named", "found"),
    [("0,1", ("0", "1")), ("", ()), ("-1", ()), ("2, GPU-5a", ("2", "GPU-5a")), ("0,-1,2", ("0",)), ("3", ("3",))],
)
def test_cards_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, named: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setenv(cards.VISIBLE, named)
    assert cards.visible_cards() == found


def test_else_those_of_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cards.VISIBLE, raising=False)
    monkeypatch.setattr(cards, "_GPUS", tmp_path / "gpus")
    assert cards.visible_cards() == ()
    for bus in ("0000:01:00.0", "0000:41:00.0", "0000:81:00.0"):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
    assert cards.visible_cards() == ("0", "1", "2")


def sees() -> tuple[str | None, bool]:
    """What a worker's process sees, and whether torch was loaded before."""
    import sys

    return os.environ.get("CUDA_VISIBLE_DEVICES"), "torch" in sys.modules


def test_each_worker_sees_one_card_also_after_it_was_started_again() -> None:
    options = {"threads_per_worker": 1, "processes": True, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=3, worker_class=cards.nanny_of(("4", "GPU-7")), **options) as cluster:
        with Client(cluster) as client:
            found = client.run(sees)
            assert sorted(found.values()) == [("4", False), ("4", False), ("GPU-7", False)]
            # The first and the third have the same card; the next one to be handed out would be the other.
            client.restart_workers([next(worker for worker, (card, _) in found.items() if card == "4")])
            assert sorted(client.run(sees).values()) == sorted(found.values())


def test_workers_of_one_card_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    crew = Crew.__new__(Crew)
    crew.address, crew._local, crew._usable, crew._unfit, crew._asked, crew._cards = "tcp://s:1", False, {}, {}, {}, {}
    crew._failed = Counter()
    here = Checkout("/root", "box", 1, "code", "", (), ())
    crew._here = here

    def judged(address: str, host: str, card: tuple[str, ...]) -> str:
        from pipeline.dask import remote

        there = Checkout("/root", host, 2, "code", "", (), card)
        packed = remote.answer(lambda value: value, Answer(there))
        crew._judge(address, 1, packed)
        return capsys.readouterr().err

    assert judged("tcp://a", "box", ("0", "1")) == ""
    assert judged("tcp://b", "box", ("1",)) == ""
    assert judged("tcp://c", "other", ("0",)) == ""
    assert judged("tcp://d", "box", ()) == ""
    said = judged("tcp://e", "box", ("0", "1"))
    assert "tcp://a and tcp://e both use card 0 of box" in said
    assert "CUDA_VISIBLE_DEVICES=N python -m dask worker tcp://s:1" in said
