"""What a process computes with: its code, digests of weights, store and data set. Two of them must agree to work together."""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline.config import ROOT, Settings
from pipeline.dask.cards import visible_cards
from pipeline.dask.probe import sees

_PACKAGES = ("pipeline", "demo", "stages", "store")


@dataclass(frozen=True)
class Checkout:
    """A process, as it describes itself.

    ``code`` and ``weights_lock`` are digests. ``cards``: the GPUs that it may use.
    ``folders``: parameter -> (path, its device and inode, None where there is no such
    folder); device and inode are comparable only on the same host.
    """

    root: str
    host: str
    process: int
    code: str
    weights_lock: str
    folders: tuple[tuple[str, str, tuple[int, int] | None], ...]
    cards: tuple[str, ...] = ()
    probe: str = ""


def describe(settings: Settings, probe: Path | None = None) -> Checkout:
    """Describe this process. Its code is what was on disk at the first call, as imported modules stay as they were.

    ``probe``: an object in the store of the process that asks (:mod:`pipeline.dask.probe`).
    """
    lock = settings.weights_lock
    return Checkout(
        str(ROOT),
        socket.gethostname(),
        os.getpid(),
        _code(),
        hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
        tuple((name, *_folder(path)) for name, path in _folders(settings).items()),
        () if settings.run.device == "cpu" else visible_cards(),
        str(probe) if probe is not None and sees(probe) else "",
    )


def disagreements(here: Checkout, there: Checkout) -> list[str]:
    """What differs, both values in each line; empty where ``there`` computes what is computed ``here``."""
    lines = []
    if here.code != there.code:
        lines.append(
            f"the code: found {there.code[:12]}, expected {here.code[:12]} (a running worker keeps the code it loaded)"
        )
    if here.weights_lock != there.weights_lock:
        lines.append(
            f"weights.lock: found {there.weights_lock[:12] or 'none'}, expected {here.weights_lock[:12] or 'none'}"
        )
    for (name, ours, identity), (_, theirs, other) in zip(here.folders, there.folders, strict=True):
        if identity is not None and (other is None or (here.host == there.host and identity != other)):
            missing = " (no such folder there)" if other is None else ""
            lines.append(f"{name}: found {theirs}{missing}, expected {ours}")
    if here.probe != there.probe and not any(line.startswith("store: ") for line in lines):
        path = Path(here.probe)
        lines.append(
            f"store: found another {path.parent} on {there.host}, without {path.name}, which {here.host} has just written; "
            "expected the same folder on both"
        )
    return lines


def _folders(settings: Settings) -> dict[str, Path]:
    data = {f"data.{name}.root": settings.folders(name).folders for name in settings.data}
    numbered = {
        key if len(folders) == 1 else f"{key}.{number}": folder
        for key, folders in data.items()
        for number, folder in enumerate(folders)
    }
    return {"store": settings.store_path} | numbered


def _folder(path: Path) -> tuple[str, tuple[int, int] | None]:
    try:
        found = path.stat()
    except OSError:
        return str(path), None
    return str(path), (found.st_dev, found.st_ino)


@lru_cache(maxsize=1)
def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(path for name in _PACKAGES for path in (ROOT / name).rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
