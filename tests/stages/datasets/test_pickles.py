"""Pickles of plain data: those of Python 2 and 3 are read as ``pickle`` reads them; whatever does more is refused unexecuted."""

from __future__ import annotations

import collections
import contextlib
import datetime
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from written_refer import Attack, Long, Unicode, python2

from stages.datasets.pickles import read_pickle
from stages.images import ImageFailure

PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=9)
KEYS = st.text(max_size=4) | st.integers(-5, 300)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=8,
)


def load(folder: Path, data: bytes) -> Any:
    (folder / "a.p").write_bytes(data)
    return read_pickle(folder, "a.p", 2**20)


def why(folder: Path, data: bytes) -> str:
    with pytest.raises(ImageFailure) as caught:
        load(folder, data)
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles")


@settings(max_examples=30, deadline=None)
@given(value=VALUES, protocol=st.integers(0, 5))
def test_pickles_of_python_3_are_read_as_pickle_reads_them(folder: Path, value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert load(folder, data) == pickle.loads(data)


@settings(max_examples=30, deadline=None)
@given(value=VALUES, protocol=st.sampled_from([0, 2]))
@example(
    value=[Long(5), Long(-(2**40)), Unicode("café \\ \n"), 'it\'s "so"\\\n\x00é', 300, -1, True, ("a",)], protocol=0
)
@example(value=[Long(5), Long(-(2**40)), Unicode("café"), "x" * 300, 300, 70000, -1, True, (1, 2, 3)], protocol=2)
@example(value=[{f"k{number}": number for number in range(300)}] * 2, protocol=2)
def test_pickles_of_python_2_are_read(folder: Path, value: Any, protocol: int) -> None:
    data = python2(value, protocol)
    assert pickle.loads(data, encoding="utf-8") == value, "what was written is a pickle"
    assert load(folder, data) == value


def test_strings_of_python_2_and_bytes_are_utf_8_or_else_latin_1(folder: Path) -> None:
    assert load(folder, b"S'caf\\xc3\\xa9'\n.") == "café"
    assert load(folder, b"S'caf\\xe9'\n.") == "café"
    assert load(folder, b"\x80\x02U\x04caf\xe9.") == "café"
    assert load(folder, pickle.dumps({"a": "é".encode(), "b": bytearray(b"c")}, 5)) == {"a": "é", "b": "c"}


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_code_is_refused_unexecuted_and_names_what_it_asks_for(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "executed"
    data = pickle.dumps([{"ref_id": 1}, Attack(marker)], protocol)
    assert "asks for posix.mkdir, expected lists, dicts" in why(tmp_path, data)
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "it would have been executed"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (datetime.datetime(2014, 8, 1), "datetime.datetime"),
        (np.int64(3), "numpy"),
        (np.zeros(2), "numpy"),
        (Path("a"), "pathlib"),
        (3j, "complex"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_is_not_builtin_is_refused_by_name(folder: Path, value: Any, name: str, protocol: int) -> None:
    found = why(folder, pickle.dumps([value], protocol))
    assert "asks for " in found
    assert name in found


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "asks for os.system"),
        (b"(S'true'\nios\nsystem\n.", "asks for os.system"),
        (b"(cos\nsystem\nS'true'\no.", "asks for os.system"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93.", "asks for os.system"),
        (b"\x80\x04\x93.", "asks for ,"),
        (b"\x80\x02I1\nR.", "instruction REDUCE"),
        (b"\x80\x02}}b.", "instruction BUILD"),
        (b"\x80\x02I1\n)\x81.", "instruction NEWOBJ,"),
        (b"\x80\x04I1\n)}\x92.", "instruction NEWOBJ_EX"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02\x83\x01\x00.", "instruction EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "instruction EXT4"),
        (b"Pname\n.", "instruction PERSID"),
        (b"\x80\x02K\x01Q.", "instruction BINPERSID"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
        (b"\x80\x04\x8f.", "instruction EMPTY_SET"),
        (b"\x80\x04(\x91.", "instruction FROZENSET"),
        (b"\xff.", "which is no instruction of a pickle"),
    ],
)
def test_every_instruction_that_does_more_than_plain_data_is_refused(folder: Path, data: bytes, found: str) -> None:
    assert found in why(folder, data)


def test_containers_without_end_are_refused(folder: Path) -> None:
    itself: list[Any] = []
    itself.append(itself)
    laughs: Any = ["ha"]
    for _ in range(25):
        laughs = [laughs] * 10
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    keys: Any = {}
    keys["a"] = {"b": keys}
    for value in (itself, keys):
        assert "or contain themselves" in why(folder, pickle.dumps(value, 2))
        assert "or contain themselves" in why(folder, pickle.dumps([value, *range(1000)], 2))
    assert "more than 32 deep in each other" in why(folder, pickle.dumps(deep, 2))
    assert "more values than bytes, as its containers repeat" in why(folder, pickle.dumps(laughs, 2))
    far = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    assert "more than 32 deep" in why(folder, far)


def test_containers_that_stand_in_several_places_are_no_bomb(folder: Path) -> None:
    tokens = ["left", "man"]
    value = [{"tokens": tokens, "sent": "left man"}, {"tokens": tokens, "sent": "man, left"}]
    assert load(folder, pickle.dumps(value, 2)) == value


def test_a_tuple_is_no_key_as_its_hash_may_take_forever(folder: Path) -> None:
    data = b"\x80\x02})"
    for _ in range(60):
        data += b"2\x86"  # DUP, TUPLE2: pickle would take 2**60 steps to hash it
    assert "a dict has a key of type tuple" in why(folder, data + b"K\x01s.")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02T\xff\xff\xff\x7fabc.",
        b"\x80\x02T\xff\xff\xff\xffabc.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.",
        b"\x80\x04\x8e\x00\x00\x00\x00\x01\x00\x00\x00abc.",
        b"\x80\x05\x96" + b"\xff" * 8 + b"abc.",
        b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        b"\x80\x02]r\xff\xff\xff\xff.",
        b"]p999999999\n.",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"]p-1\n.",
        b"g7\n.",
        b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b".",
    ],
)
def test_numbers_in_a_pickle_take_no_memory(folder: Path, data: bytes) -> None:
    tracemalloc.start()
    assert why(folder, data).startswith("pickle, at byte ")
    assert tracemalloc.get_traced_memory()[1] < 10 * len(data) + 2**20
    tracemalloc.stop()


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, 400), change=st.integers(0, 255), protocol=st.sampled_from([0, 2, 4]))
def test_a_cut_or_changed_pickle_is_read_or_a_failure(folder: Path, cut: int, change: int, protocol: int) -> None:
    data = pickle.dumps(
        [{"ref_id": 1, "sentences": [{"sent": "a man", "tokens": ["a", "man"], "at": (1.5, None)}] * 2}], protocol
    )
    assert "byte" in why(folder, data[: cut % (len(data) - 1)] or b"(")
    changed = bytearray(data)
    changed[cut % len(data)] = change
    with contextlib.suppress(ImageFailure):
        load(folder, bytes(changed))


def test_a_file_that_is_too_large_missing_or_outside_is_a_failure(folder: Path) -> None:
    (folder / "large.p").write_bytes(b"N." * 100)
    for name, found in (("large.p", "expected at most 100"), ("none.p", "no such file"), ("../a.p", "leads outside")):
        with pytest.raises(ImageFailure, match=found):
            read_pickle(folder, name, 100)
