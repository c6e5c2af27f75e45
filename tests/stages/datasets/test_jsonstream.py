"""Large JSON files, an element at a time: the same values as json.loads gives, and places that hold them."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets import jsonstream
from stages.datasets.jsonstream import element_at, read_elements, read_list
from stages.images import ImageFailure

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def read(root: Path, data: bytes | str, *keys: str) -> tuple[dict[str, list[Any]], set[str]]:
    """The elements of these arrays, and all keys; every element is read a second time from its place."""
    path = root / "a.json"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    found: dict[str, list[Any]] = {key: [] for key in keys}
    places: list[tuple[Any, int, int]] = []

    def into(key: str) -> Any:
        def each(value: Any, start: int, length: int) -> None:
            found[key].append(value)
            places.append((value, start, length))

        return each

    there = read_elements(path, {key: into(key) for key in keys})
    with path.open("rb") as file:
        for value, start, length in places:
            assert element_at(file, start, length) == value
    return found, there


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["images", "annotations", "info", "Ü"]), st.lists(VALUES, max_size=4) | VALUES),
    st.booleans(),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([1, 7, 4096]),
)
def test_elements_are_those_of_json_whatever_the_window(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any], ascii_only: bool, indent: int | None, chunk: int
) -> None:
    root = tmp_path_factory.mktemp("json")
    wanted = [key for key in ("images", "annotations") if isinstance(document.get(key, []), list)]
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonstream, "CHUNK_BYTES", chunk)
        found, there = read(root, text.encode("utf-8"), *wanted)
    assert there == document.keys()
    assert found == {key: document.get(key, []) for key in wanted}


def test_a_number_that_a_window_cuts_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [1, 1.5, -1.25e-9, 3e22, 12345678, -0.0, 1e-5]
    text = f'{{"a": [{", ".join(map(repr, numbers))}, {{"b": 1.5e-3}}], "c": 2.5e-7}}'
    for chunk in range(1, len(text)):
        monkeypatch.setattr(jsonstream, "CHUNK_BYTES", chunk)
        assert read(tmp_path, text, "a")[0] == {"a": [*numbers, {"b": 1.5e-3}]}


def test_a_byte_order_mark_and_space_are_passed_over(tmp_path: Path) -> None:
    assert read(tmp_path, b'\xef\xbb\xbf \r\n{ "a" : [ 1 , 2 ] }\n\t', "a") == ({"a": [1, 2]}, {"a"})
    assert read(tmp_path, " {} ", "a") == ({"a": []}, set())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "found 'the end of the file' at byte 0, expected '{'"),
        ("[]", r"found '\[' at byte 0, expected '{'"),
        ('{"a": [1, 2', "found 'the end of the file' at byte 11, expected ','"),
        ('{"a": [1, 2]', "found 'the end of the file' at byte 12, expected ','"),
        ('{"a": [1 2]}', "found '2' at byte 9, expected ','"),
        ('{"a": [1, ]}', "not JSON: Expecting value at byte 10"),
        ('{"a": [{"b": 1]}', "not JSON: Expecting ',' delimiter at byte 14"),
        ('{"a": [1],}', "not JSON: Expecting value at byte 10"),
        ('{"a": [1]} {}', "found '{' at byte 11, expected 'nothing more'"),
        ('{"a": [1], "a": [2]}', "the key 'a' appears twice"),
        ('{"a": {"b": 1}}', "'a' is dict, expected list"),
        ('{"a": 7}', "'a' is int, expected list"),
        ("{7: [1]}", "expected 'a key in quotation marks'"),
        ('{"a": ["\\', "not JSON: Unterminated string starting at at byte 7"),
        ("{" + '"a": [' + "[" * 100_000, "not JSON: maximum recursion depth"),
        ('{"a": [' + "7" * 5000 + "]}", "not JSON: Exceeds the limit"),
        (b'{"a": ["\xe9\xe8"]}', "text at byte 8 is not UTF-8"),
        ('{"a": []}'.encode("utf-16"), "looks like UTF-16"),
        ('{"a": []}'.encode("utf-16-le"), "looks like UTF-16"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(tmp_path: Path, data: bytes | str, message: str) -> None:
    with pytest.raises(ImageFailure, match=message):
        read(tmp_path, data, "a")


def test_an_element_without_end_is_refused_before_it_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonstream, "MAX_ELEMENT_BYTES", 2**16)
    monkeypatch.setattr(jsonstream, "CHUNK_BYTES", 2**14)
    refused = "has more than 65536 bytes"
    for data, raises in (
        ('{"a": ["' + "x" * 2**24, pytest.raises(ImageFailure, match=refused)),
        ('{"a": {"b": [' + "1.5, " * 2**22, pytest.raises(ImageFailure, match=refused)),
        ('{"a": ' + " " * 2**24 + "1}", nullcontext()),
        ('{"a": [' + "1.5, " * 2**13 + "2]}", nullcontext()),
    ):
        (tmp_path / "a.json").write_text(data)
        tracemalloc.start()
        with raises:
            read_elements(tmp_path / "a.json", {})
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**22


def test_a_file_that_was_changed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [{"id": 1}]}')
    with (tmp_path / "a.json").open("rb") as file, pytest.raises(ImageFailure, match="no longer starts the element"):
        element_at(file, 8, 9)


@settings(max_examples=25, deadline=None)
@given(st.lists(VALUES, max_size=5), st.integers(1, 40))
def test_elements_of_one_array_are_those_of_json(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], chunk: int
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    path.write_text(json.dumps(values, indent=chunk % 3, ensure_ascii=False), encoding="utf-8")
    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr(jsonstream, "CHUNK_BYTES", chunk)

        def each(value: Any, start: int, length: int) -> None:
            assert element_at(file, start, length) == value
            found.append(value)

        read_list(path, each)
    assert found == values


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{}", "found an object, expected an array"),
        ("[1, 2", "not JSON: found 'the end of the file'"),
        ("[1] 2", "not JSON: found '2' at byte 4, expected 'nothing more'"),
        ("", "not JSON: found 'the end of the file' at byte 0"),
        ("5", "not JSON: found '5' at byte 0"),
    ],
)
def test_a_file_that_is_no_array_is_refused(tmp_path: Path, data: str, message: str) -> None:
    (tmp_path / "a.json").write_text(data)
    with pytest.raises(ImageFailure, match=message):
        read_list(tmp_path / "a.json", lambda *_: None)
