"""Reads large JSON files one element at a time: one array, or an object of arrays such as COCO's ``instances_train2017.json``.

Only a window of the file is in memory. The position of every element is reported too, so that it can be read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from stages.images import ImageFailure
from stages.names import type_name

MAX_ELEMENT_BYTES = 2**24
"""Largest element of an array, or any other value of the object."""
CHUNK_BYTES = 2**22
_SPACE = re.compile(r"[ \t\n\r]*")
_BOM = "\xef\xbb\xbf"

Each = Callable[[Any, int, int], None]
"""Called with an element, the byte at which it starts, and its length in bytes."""


def read_elements(path: Path, wanted: Mapping[str, Each]) -> set[str]:
    """Call ``wanted[key]`` for every element of these arrays, in file order; returns the keys that the file has.

    Raises:
        ImageFailure: the file is not JSON in UTF-8 or not an object, a key occurs twice, the value of a wanted key is not an
            array, or an element has more than MAX_ELEMENT_BYTES.
    """
    with path.open("rb") as file:
        window, found = _Window(file), set[str]()
        window.expect("{")
        while window.peek() != "}" or found:
            key, _, _ = window.value()
            if not isinstance(key, str):
                raise window.failure("a key in quotation marks")
            if key in found:
                raise ImageFailure(f"the key {key!r} appears twice")
            found.add(key)
            window.expect(":")
            _read_value(window, key, wanted.get(key))
            if window.peek() == "}":
                break
            window.expect(",")
        window.expect("}")
        if window.peek():
            raise window.failure("nothing more")
        return found


def read_list(path: Path, each: Each) -> None:
    """Call ``each`` for every element of a file that is one array, in file order.

    Raises:
        ImageFailure: the file is not JSON in UTF-8, it is not an array, or an element has more than MAX_ELEMENT_BYTES.
    """
    with path.open("rb") as file:
        window = _Window(file)
        if window.peek() == "{":
            raise ImageFailure("found an object, expected an array")
        _read_array(window, each)
        if window.peek():
            raise window.failure("nothing more")


def element_at(file: BinaryIO, start: int, length: int) -> Any:
    """The element at a position that :func:`read_elements` reported; ImageFailure if the file has changed since."""
    file.seek(start)
    try:
        return json.loads(file.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ImageFailure(f"byte {start} no longer starts the element that was there: {error}") from error


def _read_value(window: _Window, key: str, each: Each | None) -> None:
    if window.peek() != "[":
        value, _, _ = window.value()
        if each is not None:
            raise ImageFailure(f"{key!r} is {type_name(value)}, expected list")
        return
    _read_array(window, each)


def _read_array(window: _Window, each: Each | None) -> None:
    window.expect("[")
    if window.peek() == "]":
        window.expect("]")
        return
    while True:
        value, start, length = window.value()
        if each is not None:
            each(value, start, length)
        if window.peek() == "]":
            window.expect("]")
            return
        window.expect(",")


class _Window:
    """A part of a file as text with one character per byte, as JSON's own characters are single bytes in UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._ended = file, False
        self._text, self._at, self._first = "", 0, 0
        self._scan = json.JSONDecoder().raw_decode
        self._more()
        if self._text.startswith(_BOM):
            self._at = len(_BOM)
        elif self._text.startswith(("\xff\xfe", "\xfe\xff")) or "\0" in self._text[:4]:
            raise ImageFailure("text is not UTF-8 but looks like UTF-16 or UTF-32: save it as UTF-8")

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more()

    def expect(self, character: str) -> None:
        """Go past this character."""
        if self.peek() != character:
            raise self.failure(character)
        self._at += 1

    def value(self) -> tuple[Any, int, int]:
        """The next value, the byte it starts at, and its length in bytes."""
        self.peek()
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                why = f"{error.msg} at byte {self._first + error.pos}"
                if self._ended:
                    raise ImageFailure(f"not JSON: {why}") from error
                self._more(why)
                continue
            except (ValueError, RecursionError) as error:
                raise ImageFailure(f"not JSON: {error} in the element at byte {self._first + self._at}") from error
            if len(self._text) - end < 3 and not self._ended:  # a number may go on: 1 may be 1e-5
                self._more()
                continue
            start, length = self._first + self._at, end - self._at
            written = self._text[self._at : end]
            self._at = end
            return value if written.isascii() else _utf8(written, start), start, length

    def failure(self, expected: str) -> ImageFailure:
        """The error that something other than ``expected`` was found here."""
        found = self.peek()
        return ImageFailure(
            f"not JSON: found {found or 'the end of the file'!r} at byte {self._first + self._at}, expected {expected!r}"
        )

    def _more(self, why: str = "") -> None:
        """Read more, twice as much each time within one element; what lies before the current position is dropped."""
        left = len(self._text) - self._at
        if left > MAX_ELEMENT_BYTES:
            raise ImageFailure(
                f"the element at byte {self._first + self._at} is not JSON ({why}), or has more than {MAX_ELEMENT_BYTES} bytes"
            )
        data = self._file.read(max(CHUNK_BYTES, left))
        self._ended = not data
        self._text = self._text[self._at :] + data.decode("latin-1")
        self._first, self._at = self._first + self._at, 0


def _utf8(written: str, start: int) -> Any:
    try:
        return json.loads(written.encode("latin-1").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ImageFailure(f"text at byte {start + error.start} is not UTF-8: save the file as UTF-8") from error
