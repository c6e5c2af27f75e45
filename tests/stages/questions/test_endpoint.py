from __future__ import annotations

import base64
import email.utils
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.questions import connection, endpoint
from stages.questions.embeddings import VECTORS, embed_texts
from stages.questions.endpoint import ask_all
from stages.questions.errors import BudgetSpent, EndpointError, LimitReached
from stages.questions.journal import open_journal
from stages.questions.prices import input_tokens, plan, shown, text_tokens, worst_usd
from stages.questions.requests import Answer, Picture, Request, Unanswered
from tests.stages.questions.asked import model_at, request_of
from tests.stages.questions.server import Fault, Served, completion, nth, serve, text_of

QUESTIONS = [request_of(f"question {number}") for number in range(12)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)  # 50 ms for each client


def ask(folder: Path, served: Served, requests: list[Request], **change: Any) -> list[Any]:
    """Ask with a journal of its own opening. ``change``: of the model, the journal (budget_usd, limit) and the call."""
    of_journal = {name: change.pop(name) for name in ("budget_usd", "limit") if name in change}
    of_call = {name: change.pop(name) for name in ("again", "skip_failing") if name in change}
    with open_journal(folder, **of_journal) as journal:
        return ask_all(journal, model_at(served.base_url, **change), requests, **of_call)


def test_answers_come_in_order_and_each_request_is_asked_once(tmp_path: Path) -> None:
    with serve() as served:
        replies = ask(tmp_path, served, [*QUESTIONS, *QUESTIONS[:3]])
        assert ask(tmp_path, served, QUESTIONS[::-1]) == replies[11::-1]
    assert [reply.text for reply in replies] == [f"answer to question {n}" for n in [*range(12), 0, 1, 2]]
    assert replies[0] == Answer("answer to question 0", "stop", "m", 10, 5, pytest.approx(15e-3))
    assert set(served.counts.values()) == {1}
    assert len(served.counts) == 12


def test_a_request_is_on_the_disk_before_it_is_sent(tmp_path: Path) -> None:
    found = []

    def answer(body: dict[str, Any]) -> str:
        key = request_of(text_of(body)).key
        with open_journal(tmp_path, write=False) as journal:  # as after a kill right now
            found.append(journal.waits(key) and journal.request(key)["messages"][1]["text"] == text_of(body))
        return "yes"

    with serve(answer) as served:
        ask(tmp_path, served, QUESTIONS)
    assert found == [True] * 12


def test_as_many_are_under_way_as_allowed_and_no_more(tmp_path: Path) -> None:
    with serve(faults=lambda body, seen: Fault("slow", seconds=0.05)) as served:
        ask(tmp_path, served, QUESTIONS, concurrency=3)
    assert served.most_at_once == 3


def test_what_is_sent_is_what_the_api_takes(tmp_path: Path) -> None:
    loaded = []
    picture = Picture("d" * 64, 56, 28, lambda: (loaded.append(1), b"\xff\xd8jpeg")[1])
    with serve(lambda body: f"{len(loaded)} loaded") as served:
        (first,) = ask(tmp_path, served, [request_of("what?", picture)])
        assert ask(tmp_path, served, [request_of("what?", picture)]) == [first]
    assert first.text == "1 loaded"
    assert len(loaded) == 1
    (call,) = served.chats()
    parts = call.body["messages"][1]["content"]
    assert parts[0]["type"] == "image_url"
    url = parts[0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) == b"\xff\xd8jpeg"
    assert parts[1] == {"type": "text", "text": "what?"}
    assert call.body["messages"][0] == {"role": "system", "content": "be short"}
    assert {name: call.body[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "m",
        "max_tokens": 20,
        "temperature": 0.0,
    }
    assert "seed" not in call.body


@pytest.mark.parametrize(
    ("fault", "text", "finish_reason"),
    [
        (Fault("no_choices"), "", ""),
        (Fault("null"), "", "stop"),
        (Fault("tool_call"), "", "tool_calls"),
        (Fault("length"), "cut off in the mid", "length"),
    ],
)
def test_answers_without_text_are_answers(tmp_path: Path, fault: Fault, text: str, finish_reason: str) -> None:
    with serve(faults=nth(fault)) as served:
        (reply,) = ask(tmp_path, served, QUESTIONS[:1])
        assert ask(tmp_path, served, QUESTIONS[:1]) == [reply]
    assert (reply.text, reply.finish_reason) == (text, finish_reason)
    assert set(served.counts.values()) == {1}


def test_parts_and_refusals_are_text(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        if text_of(body) == "question 0":
            parts = [{"type": "text", "text": "one "}, {"type": "odd"}, {"type": "text", "text": "two"}]
            return completion(None, "m", message={"role": "assistant", "content": parts})
        return completion(None, "m", message={"role": "assistant", "content": None, "refusal": "I cannot"})

    with serve(answer) as served:
        replies = ask(tmp_path, served, QUESTIONS[:2])
    assert [reply.text for reply in replies] == ["one two", "I cannot"]


def test_an_answer_of_megabytes_is_not_kept_but_paid(tmp_path: Path) -> None:
    with serve(faults=nth(Fault("megabyte"))) as served:
        (reply,) = ask(tmp_path, served, QUESTIONS[:1])
        assert ask(tmp_path, served, QUESTIONS[:1]) == [reply]
        with open_journal(tmp_path) as journal:
            assert journal.spent_usd == worst_usd(QUESTIONS[0], model_at(served.base_url))
    assert isinstance(reply, Unanswered)
    assert "more than 1048576 bytes" in reply.reason
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 5000
    assert set(served.counts.values()) == {1}


BILLED = [
    Fault("cut"),
    Fault("malformed"),
    Fault("not_an_object"),
    Fault("deep"),
    Fault("error"),
    Fault("slow", seconds=1.5),
    Fault("status", 504),
]
FREE = [Fault("status", 429), Fault("status", 500), Fault("status", 503), Fault("status", 408)]


@pytest.mark.parametrize(("fault", "billed"), [(fault, True) for fault in BILLED] + [(fault, False) for fault in FREE])
def test_failures_are_tried_again_and_cost_where_they_may_have_been_paid(
    tmp_path: Path, fault: Fault, billed: bool
) -> None:
    with serve(faults=nth(fault, fault)) as served:
        (reply,) = ask(tmp_path, served, QUESTIONS[:1], timeout_s=1 if fault.kind == "slow" else 5)
        worst = worst_usd(QUESTIONS[0], model_at(served.base_url))
    assert reply.text == "answer to question 0"
    assert list(served.counts.values()) == [3]
    with open_journal(tmp_path) as journal:
        assert journal.spent_usd == pytest.approx(reply.usd + 2 * worst * billed)


def test_an_answer_without_usage_costs_the_worst_case(tmp_path: Path) -> None:
    with serve(faults=nth(Fault("no_usage"))) as served:
        (reply,) = ask(tmp_path, served, QUESTIONS[:1])
    assert (reply.input_tokens, reply.output_tokens) == (0, 0)
    assert reply.usd == worst_usd(QUESTIONS[0], model_at(served.base_url)) > 0


@pytest.mark.parametrize("date", [False, True])
def test_all_wait_for_as_long_as_the_endpoint_asks(tmp_path: Path, date: bool) -> None:
    refused: list[float] = []

    def faults(body: dict[str, Any], seen: int) -> Fault | None:
        if refused or text_of(body) != "question 2":
            return None
        refused.append(time.monotonic())
        after = email.utils.formatdate(time.time() + 3, usegmt=True) if date else "1.5"
        return Fault("status", 429, {"Retry-After": after})

    with serve(lambda body: (time.sleep(0.3), "yes")[1], faults) as served:
        ask(tmp_path, served, QUESTIONS, concurrency=3)
    # Three were under way when the 429 was sent, and the client needs a moment to see it.
    early = [call for call in served.chats() if refused[0] + 0.7 < call.time_s < refused[0] + 1.5]
    assert not early
    assert sum(served.counts.values()) == 13


def test_a_limit_of_the_rate_is_no_failure_while_others_are_answered(tmp_path: Path) -> None:
    """Of four workers three are always turned away, far more often than there are retries."""
    turn = iter(range(10**9))

    def faults(body: dict[str, Any], seen: int) -> Fault | None:
        return Fault("status", 429, {"Retry-After": "0.01"}) if next(turn) % 4 else None

    with serve(faults=faults) as served:
        replies = ask(tmp_path, served, QUESTIONS, retries=3)
    assert all(isinstance(reply, Answer) for reply in replies)


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refused_request_is_not_asked_again_unless_wanted(tmp_path: Path, status: int) -> None:
    with serve(faults=nth(Fault("status", status, message="too\nlong"))) as served:
        requests = QUESTIONS[:2]
        replies = ask(tmp_path, served, requests)
        assert replies == [Unanswered(f"status {status}: too long")] * 2
        assert ask(tmp_path, served, requests) == replies
        assert list(served.counts.values()) == [1, 1]
        with open_journal(tmp_path) as journal:
            assert journal.spent_usd == 0
        assert [reply.text for reply in ask(tmp_path, served, requests, again=True)] == [
            "answer to question 0",
            "answer to question 1",
        ]


def test_an_endpoint_that_refuses_everything_stops_the_run(tmp_path: Path) -> None:
    many = [request_of(f"many {number}") for number in range(60)]
    with serve(faults=lambda body, seen: Fault("status", 404, message="no such model")) as served:
        with pytest.raises(EndpointError, match=r"1\d requests in a row.*no such model.*check endpoint"):
            ask(tmp_path, served, many, concurrency=2)
    assert len(served.counts) <= 12


def test_a_web_page_stops_at_once_and_costs_nothing(tmp_path: Path) -> None:
    with serve(faults=lambda body, seen: Fault("page")) as served:
        with pytest.raises(EndpointError, match=r"answers with a web page, expected JSON: check endpoint.*doctype"):
            ask(tmp_path, served, QUESTIONS[:1])
        assert list(served.counts.values()) == [1]
    with open_journal(tmp_path) as journal:
        assert (len(journal), journal.spent_usd) == (0, 0)


def test_refused_requests_among_answered_ones_stop_nothing(tmp_path: Path) -> None:
    many = [request_of(f"{'bad' if number % 2 else 'good'} {number}") for number in range(26)]
    with serve(faults=lambda body, seen: Fault("status", 400) if "bad" in text_of(body) else None) as served:
        replies = ask(tmp_path, served, many, concurrency=2)
    assert [type(reply) for reply in replies] == [Answer, Unanswered] * 13


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_wrong_key_stops_at_once_and_loses_nothing(
    tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")

    def faults(body: dict[str, Any], seen: int) -> Fault | None:
        if text_of(body) == "question 1":
            return Fault("status", status, seconds=0.3, message="bad key sk-very-secret")
        return Fault("slow", seconds=0.6)

    with serve(faults=faults) as served:
        with pytest.raises(EndpointError, match=f"SOME_KEY: status {status}: bad key ") as caught:
            ask(tmp_path, served, QUESTIONS, concurrency=3, key_from="SOME_KEY")
        assert len(served.counts) == 3
        assert {call.authorization for call in served.chats()} == {"Bearer sk-very-secret"}
        with open_journal(tmp_path) as journal:
            assert len(journal) == 2  # those under way were awaited
            assert journal.spent_usd == pytest.approx(2 * 0.015)
        served.faults = lambda body, seen: None
        ask(tmp_path, served, QUESTIONS, key_from="SOME_KEY")
    assert sorted(served.counts.values()) == [1] * 11 + [2]
    assert "secret" not in str(caught.value)
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_key_in_a_reason_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    with serve(faults=nth(Fault("status", 400, message="you sent sk-very-secret"))) as served:
        (reply,) = ask(tmp_path, served, QUESTIONS[:1], key_from="SOME_KEY")
    assert reply == Unanswered("status 400: you sent [key]")
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("value", [None, "", "  ", "two words"])
def test_without_a_key_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with serve() as served, pytest.raises(EndpointError, match="environment variable SOME_KEY"):
        ask(tmp_path, served, QUESTIONS, key_from="SOME_KEY")
    assert not served.calls
    assert "sent" not in (tmp_path / "log.jsonl").read_text()


def test_an_endpoint_that_is_not_there_is_named_and_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as served:
        pass
    with pytest.raises(
        EndpointError, match=r"question \d: 3 attempts failed.*no connection.*nothing else was answered"
    ):
        ask(tmp_path, served, QUESTIONS, retries=2)
    assert capsys.readouterr().err.count("trying again") == 1, "a person is told once, and not minutes later"
    with open_journal(tmp_path) as journal:
        assert journal.spent_usd == pytest.approx(0, abs=1e-9)
        assert len(journal) == 0


def test_a_request_that_always_fails_is_left_out_where_others_are_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def faults(body: dict[str, Any], seen: int) -> Fault | None:
        return Fault("status", 500) if text_of(body) == "question 0" else None

    with serve(faults=faults) as served:
        with pytest.raises(EndpointError, match="nothing else was answered"):
            ask(tmp_path, served, QUESTIONS[:1])
        replies = ask(tmp_path, served, QUESTIONS, concurrency=2)
        assert isinstance(replies[0], Unanswered)
        assert all(isinstance(reply, Answer) for reply in replies[1:])
        assert "ask of question 0 is left out: 4 attempts failed" in capsys.readouterr().err
        assert isinstance(ask(tmp_path / "alone", served, QUESTIONS[:1], skip_failing=True)[0], Unanswered)


def test_an_endpoint_that_wants_an_hour_stops_the_run(tmp_path: Path) -> None:
    with serve(faults=nth(Fault("status", 429, {"Retry-After": "3600"}))) as served:
        with pytest.raises(EndpointError, match="asks to wait 1 h 0 min"):
            ask(tmp_path, served, QUESTIONS[:1])


def test_the_budget_stops_cleanly(tmp_path: Path) -> None:
    with serve() as served:
        worst = worst_usd(QUESTIONS[0], model_at(served.base_url))
        budget = 3 * 0.015 + worst + 1e-6  # three answers, and room to ask for a fourth
        with pytest.raises(BudgetSpent, match="raise budget_usd") as caught:
            ask(tmp_path, served, QUESTIONS, concurrency=1, budget_usd=budget)
        with open_journal(tmp_path) as journal:
            assert len(journal) == 12 - caught.value.left == len(served.counts) == 4
            assert journal.spent_usd == pytest.approx(4 * 0.015)
            assert journal.spent_usd <= budget
        with pytest.raises(BudgetSpent):
            ask(tmp_path, served, QUESTIONS, budget_usd=budget)
        assert len(served.counts) == 4
        assert len(ask(tmp_path, served, QUESTIONS, budget_usd=10.0)) == 12
    assert set(served.counts.values()) == {1}


def test_the_limit_stops_cleanly(tmp_path: Path) -> None:
    with serve() as served:
        with pytest.raises(LimitReached) as caught:
            ask(tmp_path, served, QUESTIONS, limit=5)
        assert caught.value.left == 7
        assert len(served.counts) == 5
        assert len(ask(tmp_path, served, QUESTIONS, limit=7)) == 12


def test_a_picture_that_cannot_be_loaded_stops_before_it_is_sent(tmp_path: Path) -> None:
    gone = Picture("d" * 64, 56, 28, lambda: (time.sleep(0.3), Path("gone.jpg").read_bytes())[1])
    with serve(faults=lambda body, seen: Fault("slow", seconds=0.2)) as served:
        with pytest.raises(FileNotFoundError):
            ask(tmp_path, served, [QUESTIONS[0], request_of("what?", gone), QUESTIONS[1]], concurrency=2)
        with open_journal(tmp_path) as journal:
            assert QUESTIONS[0].key in journal
            assert journal.spent_usd == pytest.approx(0.015 * len(journal))


def test_requests_for_another_model_are_an_error(tmp_path: Path) -> None:
    with (
        serve() as served,
        pytest.raises(ValueError, match="found model 'm', expected 'other'"),
        open_journal(tmp_path) as journal,
    ):
        ask_all(journal, model_at(served.base_url).model_copy(update={"model": "other"}), QUESTIONS)


def test_a_plan_counts_what_is_left(tmp_path: Path) -> None:
    picture = Picture("d" * 64, 57, 28, lambda: pytest.fail("a plan loads no picture"))
    requests = [*QUESTIONS[:4], QUESTIONS[3], request_of("what?", picture, step="verify", max_tokens=7)]
    with serve() as served:
        ask(tmp_path, served, QUESTIONS[:1])
    model = model_at("http://x/v1")
    with open_journal(tmp_path, write=False) as journal:
        ask_row, verify_row = plan(journal, model, requests)
        unpriced = plan(journal, model.model_copy(update={"usd_per_million_output": None}), requests)
    assert (ask_row.step, ask_row.model, ask_row.requests, ask_row.answered, ask_row.output_tokens) == (
        "ask",
        "m",
        4,
        1,
        60,
    )
    assert ask_row.usd == pytest.approx((ask_row.input_tokens + 60) / 1000)
    assert verify_row.input_tokens == 8 + text_tokens("be short") + 8 + 2 + 3 * 1
    assert [row.usd for row in unpriced] == [None, None]
    assert (
        input_tokens(requests[-1], model.model_copy(update={"tokens_per_picture": 100})) == verify_row.input_tokens + 97
    )


def test_a_shown_request_is_whole_and_escaped() -> None:
    text = shown(request_of("line one\nred \x1b[31m \u202e", Picture("d" * 64, 57, 28, lambda: b"")))
    assert "be short" in text
    assert "[picture 57 x 28 px, dddd" in text
    assert "line one\nred \\x1b[31m \\u202e" in text


@pytest.mark.parametrize(
    ("headers", "check"),
    [
        ({"retry-after": "7"}, lambda wait: wait == 7),
        ({"retry-after-ms": "250", "retry-after": "7"}, lambda wait: wait == 0.25),
        ({"retry-after": "soon"}, lambda wait: wait is None),
        ({"retry-after": "nan"}, lambda wait: wait is None),
        ({"retry-after": "-3"}, lambda wait: wait is None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, lambda wait: wait == 0),
        ({}, lambda wait: wait is None),
    ],
)
def test_waits_are_read_in_every_form(headers: dict[str, str], check: Callable[[float | None], bool]) -> None:
    assert check(connection.wait_of(headers))


TEXTS = [f"a question of number {number}" for number in range(70)]


def test_texts_are_embedded_once(tmp_path: Path) -> None:
    with serve() as served:
        model = model_at(served.base_url)
        with open_journal(tmp_path) as journal:
            first = embed_texts(journal, model, [*TEXTS, TEXTS[0]])
            assert journal.spent_usd == pytest.approx(2 * 7 / 1000)
        with open_journal(tmp_path) as journal:
            again = embed_texts(journal, model, TEXTS[::-1])
    assert sorted(len(call.body["input"]) for call in served.calls) == [6, 64]
    assert all(vector.dtype == np.float32 and vector.shape == (4,) for vector in first)
    assert np.array_equal(first[:70], again[::-1])
    assert np.array_equal(first[0], first[70])
    assert not np.array_equal(first[0], first[1])


@pytest.mark.parametrize(
    "data", [[], [{"index": 0, "embedding": [1e300]}], [{"index": 1, "embedding": [1.0]}], [{"index": 0}]]
)
def test_vectors_that_are_none_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: list[Any]) -> None:
    monkeypatch.setattr("tests.stages.questions.server._embeddings", lambda body: {"data": data})
    with serve() as served, open_journal(tmp_path) as journal:
        with pytest.raises(EndpointError, match="expected 1"):
            embed_texts(journal, model_at(served.base_url, retries=1), ["text"])
    assert (tmp_path / VECTORS).read_bytes() == b""


def test_a_refused_text_is_an_error_every_time(tmp_path: Path) -> None:
    with serve(faults=lambda body, seen: Fault("status", 400, message="too long")) as served:
        for _ in range(2):
            with (
                open_journal(tmp_path) as journal,
                pytest.raises(EndpointError, match="does not embed 1 texts.*too long"),
            ):
                embed_texts(journal, model_at(served.base_url), ["text"])
        with open_journal(tmp_path) as journal, pytest.raises(ValueError, match="text 1 is empty"):
            embed_texts(journal, model_at(served.base_url), ["text", ""])
