"""Adopts a checkpoint that the user got by hand: opens it as its loader does, and records its digest."""

from __future__ import annotations

import importlib
import shlex
import shutil
import tempfile
from pathlib import Path

from stages.checkpoints import WeightsError, is_no_checkpoint, kind_of
from stages.encoders import ENCODERS
from stages.weights import find, how_to_get, place, read_lock, record
from store.storage.files import file_sha256


def adopt(name: str, file: Path, folder: Path, lock: Path, replace: bool = False) -> Path:
    """Copy a file that the user got by hand into ``folder``, and record its digest if the registry has none.

    If the registry has no digest, the file must contain what the loader of these weights needs.

    Args:
        replace: proceed even if the lock file has the digest of another file.

    Raises:
        WeightsError: the registry or the lock file has another digest, or the file is not such a checkpoint; nothing is kept.
    """
    weights = find(name)
    if weights.committed:
        raise WeightsError(f"{name}: it is part of the repository; {how_to_get(weights)}")
    if not file.is_file():
        found = "a folder" if file.is_dir() else "no file"
        raise WeightsError(f"{name}: found {found} {file}, expected a file; {how_to_get(weights)}")
    path = place(name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".adopt-", dir=folder) as aside:
        copy = Path(aside) / path.name  # a loader recognises the format by the suffix
        shutil.copyfile(file, copy)
        found = file_sha256(copy)
        if weights.sha256 not in (None, found):
            raise WeightsError(
                f"{file}: found sha256 {found} ({kind_of(copy)}), expected {weights.sha256} of the registry; nothing was kept; "
                f"{how_to_get(weights)}"
            )
        if weights.sha256 is None:
            try:
                check_file(name, copy)
            except WeightsError as error:
                reason = str(error).replace(str(copy), str(file))
                raise WeightsError(f"{name}: {reason}; nothing was kept; {how_to_get(weights)}") from error
            adopted = read_lock(lock).get(name, found)
            if adopted != found and not replace:
                raise WeightsError(
                    f"{file}: found sha256 {found}, expected {adopted} of {lock}; nothing was kept; to have this file instead: "
                    f"python cli.py weights {name} --from {shlex.quote(str(file))} --replace"
                )
        copy.replace(path)
    if weights.sha256 is None:
        record(name, path, lock)
    return path


def check_file(name: str, path: Path) -> None:
    """Open a file like the encoder or SAM that needs the weights ``name``; keys and shapes must match.

    Raises:
        WeightsError: it is not a checkpoint, or is one of another model.
    """
    if is_no_checkpoint(path):
        raise WeightsError(f"{path}: found {kind_of(path)}, expected a checkpoint")
    encoder = next((encoder for encoder in ENCODERS.values() if name in encoder.weights), None)
    if encoder is None:
        return
    module = importlib.import_module(f"stages.encoders.{encoder.module}")
    if len(encoder.weights) == 1:
        module.build(encoder, {name: path}, "cpu", 1)
    elif check := getattr(module, "check", None):
        check(encoder, path)
    else:
        from stages.encoders.common import load_state  # torch

        load_state(path)
