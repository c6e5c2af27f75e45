"""Pickles of plain data, read without Python's unpickler: lists, dicts, tuples, strings and numbers.

A pickle is a program. Only its instructions that make plain data are known here (``pickletools`` describes them), in the forms
of Python 2 and 3 and of protocols 0 to 5. Any other instruction stops the reading: nothing is imported, called or built.
Python's own ``pickle`` would also allocate as much memory as a number in the file says, and hash nested tuples without end.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stages.images import ImageFailure, inside, read_file

_KEYS = (str, int, float, bool, type(None))
MAX_DEPTH = 32
"""Largest depth of nested containers. A file of refs has four levels."""
_ESCAPES = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_ESCAPED = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.?))", re.DOTALL)
_LONGEST_NUMBER = 40
"""Longest number in bytes; ids and sizes have fewer."""


def read_pickle(root: Path, relative: str, max_bytes: int) -> Any:
    """The value of a pickle. Strings of Python 2, and bytes, are read in UTF-8, or else in latin-1; sets are refused.

    Raises:
        ImageFailure: there is no such file; it asks for a class or function (which is named), or for anything else than plain
            data; it is cut off or broken; its containers are nested too deep or without end.
    """
    data = read_file(inside(root, relative), max_bytes)
    reader = _Reader(data)
    try:
        value = reader.value()
    except ImageFailure as error:
        raise ImageFailure(f"pickle, at byte {reader.start}: {error}") from error
    except (IndexError, ValueError, TypeError, struct.error) as error:  # an empty stack, half a number, a list as a key
        raise ImageFailure(f"pickle, at byte {reader.start}: cut off or broken ({type(error).__name__})") from error
    _check_tree(value, len(data))
    return value


def _check_tree(value: Any, most: int) -> None:
    """Refuse containers that contain themselves, or are shared so that a short file stands for more values than it has bytes."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ImageFailure(f"pickle: containers more than {MAX_DEPTH} deep in each other, or contain themselves")
        following: list[Any] = []
        for container in level:
            values = container.values() if isinstance(container, dict) else container
            if isinstance(values, str | int | float | None):
                continue
            most -= len(values)
            if most < 0:
                raise ImageFailure("pickle: more values than bytes, as its containers repeat or contain themselves")
            following += [each for each in values if isinstance(each, list | dict | tuple)]
        level = following


def _string(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _unescaped(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    if match[2] not in _ESCAPES:
        raise ImageFailure(f"a string has the escape {match[0]!r}, which Python 2 does not write")
    return _ESCAPES[match[2]]


def _refuse_key(key: Any) -> None:
    """Raise ImageFailure for a dict key that is not a string or number: hashing nested tuples may take forever."""
    raise ImageFailure(f"a dict has a key of type {type(key).__name__}, expected a string or a number")


class _Reader:
    """Runs the instructions of a pickle that make plain data. start: the byte at which the current instruction starts."""

    def __init__(self, data: bytes) -> None:
        self._data, self.start, self._at = data, 0, 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks below each mark
        self._memo: list[Any] = []

    def value(self) -> Any:
        """The value of the pickle."""
        run, data = _RUN_BY_CODE, self._data
        while True:
            at = self.start = self._at
            code = data[at]
            if code == _STOP:
                return self._stack.pop()
            self._at = at + 1
            run[code](self)

    def refuse(self) -> None:
        """Raise ImageFailure that says what a refused instruction asks for."""
        code = self._data[self.start]
        name = _NAMES.get(code)
        if name is None:
            raise ImageFailure(f"found {bytes([code])!r}, which is no instruction of a pickle")
        found = f"has the instruction {name}"
        if name in ("GLOBAL", "INST"):
            found = f"asks for {_string(self._line())[:60]}.{_string(self._line())[:60]}"
        elif name == "STACK_GLOBAL":
            found = f"asks for {'.'.join(each[:60] for each in self._stack[-2:] if isinstance(each, str))}"
        raise ImageFailure(f"{found}, expected lists, dicts, tuples, strings and numbers alone; nothing was executed")

    def _counted(self, form: struct.Struct) -> bytes:
        """Bytes that are preceded by their number."""
        size = self._of(form)
        start, end = self._at, self._at + size
        if size < 0 or end > len(self._data):
            raise ImageFailure(f"{size} bytes are announced, {len(self._data) - start} are left: the file is cut off")
        self._at = end
        return self._data[start:end]

    def _line(self) -> bytes:
        end = self._data.index(b"\n", self._at)
        line, self._at = self._data[self._at : end], end + 1
        return line

    def _number(self) -> int:
        data, at = self._data, self._at
        end = data.index(b"\n", at)
        self._at = end + 1
        return int(data[at:end])  # at most 4300 digits

    def _marked(self) -> list[Any]:
        """Remove and return what was pushed since the last mark, and remove the mark."""
        found, self._stack = self._stack, self._below.pop()
        return found

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _put(self, number: int) -> None:
        memo = self._memo
        if number == len(memo):
            memo.append(self._stack[-1])
        elif 0 <= number <= len(self._data):
            memo += [None] * (number + 1 - len(memo))
            memo[number] = self._stack[-1]
        else:
            raise ImageFailure(f"remembers a value as number {number}, the file has {len(self._data)} bytes")

    def _get(self, number: int) -> None:
        if not 0 <= number < len(self._memo):
            raise ImageFailure(f"asks for the remembered value {number}, of {len(self._memo)}")
        self._stack.append(self._memo[number])

    def _append(self, values: list[Any]) -> None:
        self._at_top(list).extend(values)

    def _set_items(self, items: list[Any]) -> None:
        found = self._at_top(dict)
        keys = items[::2]
        for key in keys:
            if type(key) not in _KEYS:
                _refuse_key(key)
        found.update(zip(keys, items[1::2], strict=True))

    def _at_top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise ImageFailure(f"found {type(self._stack[-1]).__name__}, expected {kind.__name__} to be filled")
        return self._stack[-1]

    def _quoted(self) -> str:
        line = self._line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
            raise ImageFailure(f"found {line[:40]!r}, expected a string in quotes")
        return _string(_ESCAPED.sub(_unescaped, line[1:-1]) if b"\\" in line else line[1:-1])

    def _int_or_bool(self) -> Any:
        if self._data.startswith((b"00\n", b"01\n"), self._at):
            return self._line() == b"01"
        return self._number()

    def _long(self, form: struct.Struct) -> int:
        data = self._counted(form)
        if len(data) > _LONGEST_NUMBER:
            raise ImageFailure(f"found a number of {len(data)} bytes, expected at most {_LONGEST_NUMBER}")
        return int.from_bytes(data, "little", signed=True)

    def _of(self, form: struct.Struct) -> Any:
        """Read a number of this form."""
        (value,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return value


_1, _2, _4, _8 = (struct.Struct(form) for form in ("<B", "<H", "<i", "<Q"))
_4_UNSIGNED, _REAL = struct.Struct("<I"), struct.Struct(">d")
_STOP = ord(".")


def _push(value: Callable[[_Reader], Any]) -> Callable[[_Reader], None]:
    """An instruction that pushes a value."""

    def run(reader: _Reader) -> None:
        found = value(reader)  # which may put another stack in place
        reader._stack.append(found)

    return run


def _tuple_of(count: int) -> Callable[[_Reader], None]:
    def run(reader: _Reader) -> None:
        stack = reader._stack
        if len(stack) < count:
            raise ImageFailure(f"a tuple of {count} is made of {len(stack)} values")
        stack[-count:] = [tuple(stack[-count:])]

    return run


def _append_one(reader: _Reader) -> None:
    value = reader._stack.pop()
    reader._at_top(list).append(value)


def _set_one(reader: _Reader) -> None:
    value, key = reader._stack.pop(), reader._stack.pop()
    if type(key) not in _KEYS:
        _refuse_key(key)
    reader._at_top(dict)[key] = value


def _dict_of(reader: _Reader) -> None:
    items = reader._marked()
    reader._stack.append({})
    reader._set_items(items)


_RUN: Mapping[str, Callable[[_Reader], object]] = {
    "PROTO": lambda reader: reader._of(_1),
    "FRAME": lambda reader: reader._of(_8),
    "MARK": _Reader._mark,
    "POP": lambda reader: reader._stack.pop() if reader._stack else reader._marked(),
    "POP_MARK": _Reader._marked,
    "DUP": _push(lambda reader: reader._stack[-1]),
    "PUT": lambda reader: reader._put(reader._number()),
    "BINPUT": lambda reader: reader._put(reader._of(_1)),
    "LONG_BINPUT": lambda reader: reader._put(reader._of(_4_UNSIGNED)),
    "MEMOIZE": lambda reader: reader._put(len(reader._memo)),
    "GET": lambda reader: reader._get(reader._number()),
    "BINGET": lambda reader: reader._get(reader._of(_1)),
    "LONG_BINGET": lambda reader: reader._get(reader._of(_4_UNSIGNED)),
    "EMPTY_LIST": _push(lambda reader: []),
    "EMPTY_DICT": _push(lambda reader: {}),
    "EMPTY_TUPLE": _push(lambda reader: ()),
    "LIST": _push(_Reader._marked),
    "DICT": _dict_of,
    "TUPLE": _push(lambda reader: tuple(reader._marked())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append_one,
    "APPENDS": lambda reader: reader._append(reader._marked()),
    "SETITEM": _set_one,
    "SETITEMS": lambda reader: reader._set_items(reader._marked()),
    "NONE": _push(lambda reader: None),
    "NEWTRUE": _push(lambda reader: True),
    "NEWFALSE": _push(lambda reader: False),
    "INT": _push(_Reader._int_or_bool),
    "BININT": _push(lambda reader: reader._of(_4)),
    "BININT1": _push(lambda reader: reader._of(_1)),
    "BININT2": _push(lambda reader: reader._of(_2)),
    "LONG": _push(lambda reader: int(reader._line().removesuffix(b"L"))),
    "LONG1": _push(lambda reader: reader._long(_1)),
    "LONG4": _push(lambda reader: reader._long(_4)),
    "FLOAT": _push(lambda reader: float(reader._line())),
    "BINFLOAT": _push(lambda reader: reader._of(_REAL)),
    "STRING": _push(_Reader._quoted),
    "BINSTRING": _push(lambda reader: _string(reader._counted(_4))),
    "SHORT_BINSTRING": _push(lambda reader: _string(reader._counted(_1))),
    "BINBYTES": _push(lambda reader: _string(reader._counted(_4_UNSIGNED))),
    "SHORT_BINBYTES": _push(lambda reader: _string(reader._counted(_1))),
    "BINBYTES8": _push(lambda reader: _string(reader._counted(_8))),
    "BYTEARRAY8": _push(lambda reader: _string(reader._counted(_8))),
    "UNICODE": _push(lambda reader: reader._line().decode("raw-unicode-escape")),
    "BINUNICODE": _push(lambda reader: reader._counted(_4_UNSIGNED).decode("utf-8", "surrogatepass")),
    "SHORT_BINUNICODE": _push(lambda reader: reader._counted(_1).decode("utf-8", "surrogatepass")),
    "BINUNICODE8": _push(lambda reader: reader._counted(_8).decode("utf-8", "surrogatepass")),
}
"""Instructions that make plain data, by their names in ``pickletools``."""
_NAMES = {ord(found.code): found.name for found in pickletools.opcodes}
_RUN_BY_CODE = [_RUN.get(_NAMES.get(code, ""), _Reader.refuse) for code in range(256)]
