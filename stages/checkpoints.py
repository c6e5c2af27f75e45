"""Files of weights: recognises files that hold no weights, and raises one error for whatever cannot be read.

No torch is imported before a file is read.
"""

from __future__ import annotations

import errno
import json
import pickle
import string
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HEAD_BYTES = 512
_HEADER_BYTES = 100_000_000  # more than the size of any valid safetensors header
_LFS = b"version https://git-lfs.github.com/spec/"
_MARKUP = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_ARCHIVES = {b"\x1f\x8b": "a gzip archive", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"%PDF": "a PDF"}
_PRINTED = frozenset(string.printable.encode())


class WeightsError(Exception):
    """A checkpoint is missing or is not the expected one; the message says what to type."""


def kind_of(path: Path) -> str:
    """What a file looks like, in words for a message."""
    if path.is_dir():
        return "a folder"
    if not path.exists():
        return "no such file"
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "an empty file"
    if head.startswith(_LFS):
        return f"a Git LFS pointer of {size} bytes instead of the file (git lfs pull fetches it)"
    if head.lstrip().lower().startswith(_MARKUP):
        return f"an HTML page of {size} bytes, as a site gives it in place of a file that needs a login or a click"
    if head.startswith(b"PK\x03\x04"):
        return _archive(path, size)
    header = int.from_bytes(head[:8], "little")
    if header < _HEADER_BYTES and head[8:9] == b"{":
        return f"a safetensors file of {size} bytes" + (
            " that is cut off" if size < _safetensors_end(path, header) else ""
        )
    known = next((words for start, words in _ARCHIVES.items() if head.startswith(start)), None)
    if known:
        return known
    if head.startswith(b"\x80"):
        return f"a pickle of {size} bytes"
    if set(head) <= _PRINTED:
        return f"a text of {size} bytes that begins {head[:40].decode('ascii')!r}"
    return f"a file of {size} bytes"


def is_no_checkpoint(path: Path) -> bool:
    """Whether a file cannot be one, whatever its loader: a folder, an empty file, a page, a pointer."""
    return kind_of(path).startswith(
        ("a folder", "no such file", "an empty file", "a Git LFS", "an HTML", "a text", "a PDF")
    )


@contextmanager
def reading(path: Path, what: str = "checkpoint") -> Iterator[None]:
    """Turn whatever a reader of tensors raises about a file without weights into one error.

    Raises:
        WeightsError: the file is not what the reader reads; the message says what it is.
        OSError: it cannot be read at all.
    """
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():  # torch's own warnings; whether it is a checkpoint is decided below
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            yield
    except OSError as error:
        if path.is_file() and error.errno not in (
            None,
            errno.EINVAL,
        ):  # torch seeks before the start of a truncated file
            raise
        raise _unreadable(path, what, error) from error
    except (
        pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError,
        AttributeError, LookupError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise _unreadable(path, what, error) from error


def _safetensors_end(path: Path, header: int) -> int:
    """The size that a safetensors file must have according to its header."""
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(header)
    try:
        tensors = [value for key, value in json.loads(text).items() if key != "__metadata__"]
        return 8 + header + max((int(value["data_offsets"][1]) for value in tensors), default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return 8 + header + (len(text) < header)


def _archive(path: Path, size: int) -> str:
    if not zipfile.is_zipfile(path):
        return f"a torch archive of {size} bytes that is cut off"
    with zipfile.ZipFile(path) as archive:
        files = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in files:
        return f"a TorchScript archive of {size} bytes"
    return f"a torch archive of {size} bytes" if "data.pkl" in files else f"a zip archive of {size} bytes"


def _unreadable(path: Path, what: str, error: Exception) -> WeightsError:
    reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
    return WeightsError(f"{path} is no {what} of plain tensors: found {kind_of(path)} ({reason})")
