from __future__ import annotations

import json
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.questions import batch
from stages.questions.endpoint import ask_all
from stages.questions.errors import BudgetSpent, EndpointError, LimitReached
from stages.questions.journal import Journal, open_journal
from stages.questions.prices import worst_usd
from stages.questions.requests import Answer, Picture, Request, Unanswered
from tests.stages.questions.asked import model_at, request_of
from tests.stages.questions.server import Fault, Served, serve, text_of

QUESTIONS = [request_of(f"question {number}") for number in range(8)]
ANSWERS = [f"answer to question {number}" for number in range(8)]
PAID = 0.015


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "POLL_S", 0.01)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)  # 50 ms for each client


def ask(folder: Path, served: Served, requests: list[Request], **change: Any) -> list[Any]:
    of_journal = {name: change.pop(name) for name in ("budget_usd", "limit") if name in change}
    of_call = {name: change.pop(name) for name in ("again", "skip_failing") if name in change}
    with open_journal(folder, **of_journal) as journal:
        return ask_all(journal, model_at(served.base_url, mode="batch", **change), requests, **of_call)


def spent(folder: Path) -> float:
    with open_journal(folder, write=False) as journal:
        assert not journal.batches
        return journal.spent_usd


def sent(served: Served) -> Counter[str]:
    """How often each text stands in a batch."""
    files = [served.files[each["input_file_id"]] for each in served.batches.values()]
    return Counter(text_of(json.loads(line)["body"]) for file in files for line in file.splitlines())


def test_a_batch_is_answered_in_order_and_once(tmp_path: Path) -> None:
    picture = Picture("d" * 64, 56, 28, lambda: b"\xff\xd8jpeg")
    requests = [*QUESTIONS, QUESTIONS[0], request_of("what?", picture)]
    with serve() as served:
        replies = ask(tmp_path, served, requests)
        assert [reply.text for reply in replies] == [*ANSWERS, ANSWERS[0], "answer to what?"]
        assert replies[0] == Answer(ANSWERS[0], "stop", "m", 10, 5, pytest.approx(PAID))
        assert ask(tmp_path, served, requests) == replies
    assert len(served.batches) == 1
    assert set(sent(served).values()) == {1}
    assert spent(tmp_path) == pytest.approx(9 * PAID)


def test_large_files_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_REQUESTS", 3)
    with serve() as served:
        assert [reply.text for reply in ask(tmp_path / "count", served, QUESTIONS)] == ANSWERS
        assert len(served.batches) == 3
    monkeypatch.setattr(batch, "MAX_BYTES", 500)
    with serve() as served:
        assert [reply.text for reply in ask(tmp_path / "bytes", served, QUESTIONS)] == ANSWERS
        assert len(served.batches) == 4
    assert max(len(served.files[each["input_file_id"]]) for each in served.batches.values()) < 1000


def test_what_a_batch_does_not_answer_goes_into_another_one(tmp_path: Path) -> None:
    def faults(body: dict[str, Any], seen: int) -> Fault | None:
        failing = "messages" in body and text_of(body) in ("question 1", "question 2")
        return Fault("status", 500) if failing and seen == 0 else None

    with serve(faults=faults) as served:
        served.batch_end = lambda number: "expired" if number == 0 else "completed"
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS)] == ANSWERS
        assert len(served.batches) == 2
        counts = sent(served)
    # The first batch ended after questions 7 to 4; it answered them.
    assert counts == {f"question {number}": 1 if number >= 4 else 2 for number in range(8)}
    assert spent(tmp_path) == pytest.approx(8 * PAID)


def test_refused_and_odd_replies_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    kinds = {
        "question 0": Fault("status", 400, message="bad sk-very-secret"),
        "question 1": Fault("error"),
        "question 2": Fault("megabyte"),
        "question 3": Fault("null"),
        "question 4": Fault("no_usage"),
    }
    with serve(faults=lambda body, seen: kinds.get(text_of(body)) if "messages" in body else None) as served:
        replies = ask(tmp_path, served, QUESTIONS, key_from="SOME_KEY")
        assert len(served.batches) == 1
        worst = worst_usd(QUESTIONS[0], model_at(served.base_url))
    assert [type(reply) for reply in replies] == [Unanswered] * 3 + [Answer] * 5
    assert replies[0].reason.startswith("status 400: ")
    assert "bad [key]" in replies[0].reason
    assert "upstream failed" in replies[1].reason
    assert "more than 1048576 bytes" in replies[2].reason
    assert replies[3].text == ""
    assert spent(tmp_path) == pytest.approx(3 * worst + 4 * PAID)
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_lines_that_are_no_reply_are_told_and_their_requests_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as served:
        new_file = served.files.__class__.__setitem__

        class Files(dict[str, bytes]):
            def __setitem__(self, name: str, data: bytes) -> None:
                torn = b'{"torn\n[]\n' + b"".join(data.splitlines(keepends=True)[1:])
                new_file(self, name, torn if name == "file-1" else data)

        served.files = Files()
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS)] == ANSWERS
    assert len(served.batches) == 2
    assert capsys.readouterr().err.count("a line that is not a reply") == 2


def test_a_batch_whose_creation_was_not_heard_is_found_and_not_created_again(tmp_path: Path) -> None:
    def faults(body: dict[str, Any], seen: int) -> Fault | None:
        return Fault("cut") if "input_file_id" in body and seen == 0 else None

    with serve(faults=faults) as served:
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS)] == ANSWERS
    assert len(served.batches) == 1


@pytest.mark.parametrize("where", ["created", "closed"])
def test_a_run_that_ended_just_before_it_logged_goes_on_there(tmp_path: Path, where: str) -> None:
    with serve() as served:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, where, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                ask(tmp_path, served, QUESTIONS)
        assert len(served.batches) == 1
        replies = ask(tmp_path, served, [*QUESTIONS, request_of("more")])
        assert [reply.text for reply in replies] == [*ANSWERS, "answer to more"]
    assert set(sent(served).values()) == {1}
    assert spent(tmp_path) == pytest.approx(9 * PAID)


def test_a_batch_is_not_sent_again_by_a_run_that_asks_for_something_else(tmp_path: Path) -> None:
    with serve() as served:
        served.batch_end = lambda number: "in_progress"
        model = model_at(served.base_url, mode="batch")
        with pytest.MonkeyPatch.context() as patch, open_journal(tmp_path) as journal:
            patch.setattr(batch.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                ask_all(journal, model, QUESTIONS[:4])
        served.batch_end = lambda number: "completed"
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS[3:])] == ANSWERS[3:]
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS)] == ANSWERS
    assert set(sent(served).values()) == {1}


def test_a_refused_batch_and_an_unanswered_one_are_errors(tmp_path: Path) -> None:
    with serve() as served:
        served.batch_end = lambda number: "failed"
        with pytest.raises(EndpointError, match="refuses batch batch-0: injected"):
            ask(tmp_path, served, QUESTIONS)
        assert spent(tmp_path) == 0
        served.batch_end, served.faults = lambda number: "completed", lambda body, seen: Fault("status", 500)
        served.faults = lambda body, seen: Fault("status", 500) if "messages" in body else None
        with pytest.raises(EndpointError, match="batches of 8 requests ended without any reply"):
            ask(tmp_path, served, QUESTIONS)
        assert all(isinstance(reply, Unanswered) for reply in ask(tmp_path, served, QUESTIONS, skip_failing=True))
        served.faults = lambda body, seen: None
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS, again=True)] == ANSWERS


def test_a_batch_that_the_endpoint_lost_counts_as_spent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve() as served:
        model = model_at(served.base_url, mode="batch")
        with open_journal(tmp_path) as journal, pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch, "_collect", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                ask_all(journal, model, QUESTIONS[:1])
        served.batches.clear()
        assert [reply.text for reply in ask(tmp_path, served, QUESTIONS[:1])] == ANSWERS[:1]
        assert spent(tmp_path) == pytest.approx(worst_usd(QUESTIONS[0], model) + PAID)
    assert "has no batch batch-0 any more" in capsys.readouterr().err


def test_an_endpoint_without_batches_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    with serve(faults=lambda body, seen: Fault("status", 401, message="bad sk-very-secret")) as served:
        with pytest.raises(EndpointError, match="bad .key.*pick them up") as caught:
            ask(tmp_path, served, QUESTIONS, key_from="SOME_KEY")
    assert "secret" not in str(caught.value)


def test_budget_and_limit_hold_for_batches(tmp_path: Path) -> None:
    with serve() as served:
        worst = worst_usd(QUESTIONS[0], model_at(served.base_url))
        budget = 2.5 * worst  # two at a time, until less than one worst case is left
        with pytest.raises(BudgetSpent) as caught:
            ask(tmp_path, served, [*QUESTIONS, *(request_of(f"more {n}") for n in range(20))], budget_usd=budget)
        assert 28 - caught.value.left == len(sent(served)) > 2
        assert budget - worst < spent(tmp_path) <= budget
        before = len(sent(served))
        with pytest.raises(LimitReached) as reached:
            ask(tmp_path, served, [request_of(f"new {n}") for n in range(5)], limit=3)
        assert reached.value.left == 2
        assert len(sent(served)) == before + 3
    assert set(sent(served).values()) == {1}
