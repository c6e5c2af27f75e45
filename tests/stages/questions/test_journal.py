from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions.errors import BudgetSpent, JournalError, LimitReached
from stages.questions.journal import LOG, PROMPTS, Journal, open_journal, sending
from stages.questions.lines import Lines
from stages.questions.requests import Answer, Picture, Unanswered
from tests.stages.questions.asked import request_of

TEXTS = st.text(st.characters(codec=None), max_size=8)
STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["send", "answer", "refuse", "release"]), TEXTS), max_size=20
)


def answer_of(text: str, usd: float = 0.25) -> Answer:
    return Answer(text, "stop", "m", 3, 4, usd)


def play(journal: Journal, steps: list[tuple[int, str, str]]) -> tuple[dict[str, object], float]:
    """Replies by key, and what is spent, as a plain reading of the rules has it."""
    replies: dict[str, object] = {}
    spent, open_usd = 0.0, {}
    for number, what, text in steps:
        request = request_of(f"question {number}")
        if what == "send":
            journal.send([sending(request, 1.0)])
            spent, open_usd[request.key] = spent + 1.0, 1.0
        elif request.key in open_usd:
            held = open_usd.pop(request.key)
            if what == "release":
                journal.release(request.key, text)
                spent -= held
            else:
                reply = answer_of(text) if what == "answer" else Unanswered(text)
                journal.record(request.key, reply)
                spent += (0.25 if what == "answer" else 0.0) - held
                replies[request.key] = reply
    return replies, spent


@given(steps=STEPS)
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    with open_journal(folder) as journal:
        replies, spent = play(journal, steps)
    for write in (False, True):
        with open_journal(folder, write=write) as journal:
            assert {key: journal.answer(key) for key in replies} == replies
            assert len(journal) == len(replies)
            assert journal.spent_usd == pytest.approx(spent)


def test_a_request_is_kept_with_what_was_sent(tmp_path: Path) -> None:
    picture = Picture("d" * 64, 30, 20, lambda: pytest.fail("a picture is not loaded to log it"))
    request = request_of("naïve \ud800 \n", picture)
    with open_journal(tmp_path) as journal:
        journal.send([sending(request, 1.0)])
    with open_journal(tmp_path, write=False) as journal:
        found = journal.request(request.key)
        with pytest.raises(KeyError):
            journal.answer(request.key)
    assert found["messages"][1] == {
        "role": "user",
        "text": "naïve \ud800 \n",
        "pictures": [{"sha256": "d" * 64, "width_px": 30, "height_px": 20}],
    }
    assert (found["step"], found["model"], found["prompt"]) == ("ask", "m", "ask-1")
    assert found["sampling"] == {"max_tokens": 20, "temperature": 0.0, "seed": None}


def test_a_log_cut_anywhere_is_what_its_whole_lines_say(tmp_path: Path) -> None:
    with open_journal(tmp_path / "whole") as journal:
        for number in range(3):
            request = request_of(f"question {number}")
            journal.send([sending(request, 1.0)])
            journal.record(request.key, answer_of(f"text {number}"))
    log, prompts = ((tmp_path / "whole" / name).read_bytes() for name in (LOG, PROMPTS))
    ends = [at for at, byte in enumerate(log) if byte == ord("\n")]
    for cut in sorted({0, 1, len(log), *range(0, len(log), 97), *ends, *(end + 1 for end in ends)}):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / LOG).write_bytes(log[:cut])
        (folder / PROMPTS).write_bytes(prompts + prompts[: cut % 50])
        whole = [json.loads(line) for line in log[:cut].split(b"\n")[:-1]]
        with open_journal(folder, write=False) as journal:
            assert len(journal) == sum("answered" in entry for entry in whole)
        with open_journal(folder) as journal:
            assert len(journal) == sum("answered" in entry for entry in whole)
            request = request_of("another one")
            journal.send([sending(request, 1.0)])
            journal.record(request.key, answer_of("new"))
        with open_journal(folder) as journal:
            assert journal.answer(request.key) == answer_of("new")
            assert journal.request(request.key)["messages"][1]["text"] == "another one"


def test_a_last_line_that_a_loss_of_power_filled_is_dropped(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.send([sending(request_of("a"), 1.0)])
    good = (tmp_path / LOG).read_bytes()
    (tmp_path / LOG).write_bytes(good + b"\0" * 50 + b"\n")
    with open_journal(tmp_path) as journal:
        assert journal.spent_usd == 1.0
        journal.record(request_of("a").key, answer_of("b"))
    with open_journal(tmp_path) as journal:
        assert journal.answer(request_of("a").key) == answer_of("b")


@pytest.mark.parametrize(
    "line", [b"{torn", b"[]", b'{"other": 1}', b'{"sent": [{}]}', b'{"journal": 1}', b'{"created": "x"}']
)
def test_damage_in_the_middle_is_an_error_that_says_where(tmp_path: Path, line: bytes) -> None:
    with open_journal(tmp_path) as journal:
        journal.send([sending(request_of("a"), 1.0)])
    first, second = (tmp_path / LOG).read_bytes().splitlines(keepends=True)
    (tmp_path / LOG).write_bytes(first + line + b"\n" + second)
    with pytest.raises(JournalError, match=f"{LOG}: (line 2|byte {len(first)}) .*expected"), open_journal(tmp_path):
        pass
    assert (tmp_path / LOG).read_bytes() == first + line + b"\n" + second


def test_lost_prompts_are_an_error(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.send([sending(request_of("a"), 1.0)])
        journal.send([sending(request_of("b"), 1.0)])
    good = (tmp_path / PROMPTS).read_bytes()
    (tmp_path / PROMPTS).write_bytes(good.splitlines(keepends=True)[0])
    with pytest.raises(JournalError, match="ends before the last request"), open_journal(tmp_path):
        pass
    (tmp_path / PROMPTS).write_bytes(b"".join(good.splitlines(keepends=True)[::-1]))
    with open_journal(tmp_path) as journal, pytest.raises(JournalError, match="another request"):
        journal.request(request_of("a").key)


def test_one_process_at_a_time_writes_and_others_may_read(tmp_path: Path) -> None:
    with open_journal(tmp_path) as journal:
        journal.send([sending(request_of("a"), 1.0)])
        with pytest.raises(JournalError, match="another process is asking"), open_journal(tmp_path):
            pass
        with open_journal(tmp_path, write=False) as reader:
            assert reader.spent_usd == 1.0
            with pytest.raises(OSError, match=LOG):
                reader.record("key", answer_of("x"))
    with open_journal(tmp_path):
        pass


def test_a_journal_that_is_only_read_leaves_no_folder(tmp_path: Path) -> None:
    with open_journal(tmp_path / "none", write=False) as journal:
        assert len(journal) == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("broken", ["pwrite", "fsync"])
def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    pwrite = os.pwrite

    def fail(descriptor: int, *data: object) -> int:
        if broken == "pwrite" and len(data[0]) > 5:  # type: ignore[arg-type]
            return pwrite(descriptor, data[0][:5], data[1])  # type: ignore[index, arg-type]
        raise OSError(errno.ENOSPC, "full")

    lines = Lines(tmp_path / "lines", write=True)
    lines.append([{"a": 1}])
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(OSError, match="full"):
            lines.append([{"a": 2, "long": "x" * 100}])
        assert (tmp_path / "lines").read_bytes() == b'{"a":1}\n'
    (at,) = lines.append([{"a": 3}])
    assert lines.read(at) == {"a": 3}
    lines.close()
    again = Lines(tmp_path / "lines", write=False)
    assert [entry for _, entry in again.scan()] == [{"a": 1}, {"a": 3}]
    again.close()


def test_long_lines_are_read_and_found_from_the_end(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines", write=True)
    values = [{"n": size, "x": "y" * size} for size in (0, 4090, 70_000, 300_000, 1)]
    offsets = lines.append(values)
    assert [lines.read(at) for at in offsets] == values
    lines.close()
    with (tmp_path / "lines").open("ab") as file:
        file.write(b'{"torn": "' + b"z" * 200_000)
    lines = Lines(tmp_path / "lines", write=True)
    assert lines.end == (tmp_path / "lines").stat().st_size
    assert [entry for _, entry in lines.scan()] == values
    lines.close()


def test_the_budget_is_never_passed_and_nothing_is_logged_then(tmp_path: Path) -> None:
    first, second, third = (request_of(text) for text in "abc")
    with open_journal(tmp_path, budget_usd=2.0) as journal:
        journal.send([sending(first, 1.5)])
        with pytest.raises(BudgetSpent) as caught:
            journal.send([sending(second, 1.0)])
        assert (caught.value.spent_usd, caught.value.budget_usd, caught.value.next_usd) == (1.5, 2.0, 1.0)
        journal.record(first.key, answer_of("cheap", 0.5))
        journal.send([sending(second, 1.0)])
    with open_journal(tmp_path, budget_usd=2.0) as journal:  # the second one was lost: it may have been paid
        assert journal.spent_usd == 1.5
        assert journal.fitting([sending(third, 0.25), sending(first, 0.25), sending(second, 0.25)]) == 2
        with pytest.raises(BudgetSpent):
            journal.send([sending(third, 0.25), sending(first, 0.5)])
        assert third.key not in journal._records


def test_the_limit_counts_requests_and_not_attempts(tmp_path: Path) -> None:
    first, second, third = (request_of(text) for text in "abc")
    with open_journal(tmp_path, limit=2) as journal:
        for request in (first, first, second, first):
            journal.send([sending(request, 0.0)])
        with pytest.raises(LimitReached, match="asked 2 new"):
            journal.send([sending(third, 0.0)])
    with open_journal(tmp_path, limit=0) as journal, pytest.raises(LimitReached, match="asked 0 new"):
        journal.send([sending(first, 0.0)])


@pytest.mark.parametrize("billed", [False, True])
def test_a_closed_batch_frees_what_its_requests_hold(tmp_path: Path, billed: bool) -> None:
    first, second = request_of("a"), request_of("b")
    with open_journal(tmp_path) as journal:
        journal.send([sending(each, 1.0) for each in (first, second)], "name", "http://x/v1")
        journal.created("name", "batch-7")
    with open_journal(tmp_path) as journal:
        (batch,) = journal.batches.values()
        assert (batch.created, batch.endpoint, batch.model) == ("batch-7", "http://x/v1", "m")
        assert batch.keys == (first.key, second.key)
        journal.record(first.key, answer_of("yes", 0.25))
        assert (journal.waits(first.key), journal.waits(second.key)) == (False, True)
        journal.closed("name", billed)
    with open_journal(tmp_path) as journal:
        assert not journal.batches
        assert journal.spent_usd == (1.25 if billed else 0.25)
