"""Without a home folder or a checkout that can be written everything works; a store that cannot be written is named."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.caching import IndexDataCacheFile

from pipeline.errors import INPUT, INTERRUPTED, exit_code_of

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = {name: "/dev/null/nowhere" for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}


def without_home() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR")}
    return {**kept, **NOWHERE, "OMP_NUM_THREADS": "1"}


def read_only(folders: list[Path], command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """A command that sees these folders mounted read-only, and no home folder; skips where mounting is not allowed."""
    mount = " && ".join(f"mount --bind '{each}' '{each}' && mount -o remount,ro,bind '{each}'" for each in folders)
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False,
                                                         capture_output=True).returncode:  # fmt: skip
        pytest.skip("mounting is not allowed here")
    return subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command],
        cwd=ROOT,
        env={**without_home(), **more},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def cli(project: Any, *arguments: str) -> list[str]:
    return [sys.executable, "cli.py", "--params", str(project.params), *arguments]


@pytest.mark.slow
def test_a_whole_run_without_home_and_with_a_read_only_checkout(empty: Any) -> None:
    """numba finds no folder for what it compiles; Matplotlib, Dask and Hugging Face look for theirs, too."""
    empty.add("val", "fox", 1)
    empty.configure(
        splits=["val"], means={"tiny": {"train": ["val"]}}, embed__mask_encoders=["demo_dinov2", "demo_sam"]
    )
    verbs = (["index"], ["extract", "--split", "val"], ["normalize"], ["verify", "--deep", "--complete"])
    script = f"""
import cli, sys
for verb in {verbs!r}:
    sys.argv = ["cli.py", "--params", {str(empty.params)!r}, *verb]
    if code := cli.main():
        sys.exit(code)
"""
    done = read_only([ROOT], [sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    assert "0 missing, 0 stale" in done.stdout


def compiled(folder: Path) -> Any:
    """What a small function says of 2, compiled as those of ``stages.proposers.sam.cells`` are, in a new module of ``folder``."""
    folder.mkdir(exist_ok=True)
    (folder / "small.py").write_text(
        "from stages.internals import compiled\n@compiled\ndef add_one(value):\n    return value + 1\n"
    )
    spec = importlib.util.spec_from_file_location("small", folder / "small.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.add_one(2)


def test_compiled_code_that_cannot_be_kept_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever numba may keep it: a damaged or a forbidden file, a full disk, and no folder at all."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kept"))
    assert compiled(tmp_path / "code") == 3
    (index,) = (tmp_path / "kept").rglob("*.nbi")
    whole = index.read_bytes()
    for content in (b"", whole[:20], b"this is no pickle"):
        index.write_bytes(content)
        assert compiled(tmp_path / "code") == 3

    for error in (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT):

        def refuse(self: Any, *_: Any, error: int = error) -> None:
            raise OSError(error, os.strerror(error))

        with monkeypatch.context() as patch:
            patch.setattr(IndexDataCacheFile, "save", refuse)
            assert compiled(tmp_path / f"save {error}") == 3
            patch.setattr(IndexDataCacheFile, "load", refuse)
            assert compiled(tmp_path / "code") == 3

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "no folder").mkdir()
    (tmp_path / "no folder/__pycache__").write_text("in the way")
    assert compiled(tmp_path / "no folder") == 3


def test_kernels_that_cannot_be_kept_go_into_a_temporary_folder() -> None:
    pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
    code = "import triton; from stages.proposers.sam import kernels; print(triton.knobs.cache.dir)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=without_home(), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "nowhere" not in done.stdout
    assert not Path(done.stdout.strip()).exists()  # gone with its process


@pytest.mark.parametrize("verb", ["extract", "normalize"])
def test_a_read_only_store_is_named(finished: Any, verb: str) -> None:
    changed = {
        "extract": ["--set", "proposers.sam.box_nms_thresh=0.9"],
        "normalize": ["--set", "means={other: {train: [train]}}"],
    }[verb]
    rest = ["extract", "--split", "val", "--replace"] if verb == "extract" else ["normalize"]
    done = read_only([finished.store], cli(finished, *changed, *rest))
    assert done.returncode == INPUT, done.stderr
    assert str(finished.store) in done.stderr
    assert "run the same command again" not in done.stderr


def test_a_finished_store_that_is_read_only_needs_nothing(finished: Any) -> None:
    for verb in ("extract", "normalize"):
        done = read_only([finished.store], cli(finished, verb))
        assert (done.returncode, "up to date" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_read_only_report_folder_is_named(finished: Any) -> None:
    done = read_only([finished.folder / "report"], cli(finished, "normalize"))
    assert done.returncode == INPUT, done.stderr
    assert str(finished.folder / "report") in done.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EROFS, INPUT),
        (errno.EACCES, INPUT),
        (errno.EPERM, INPUT),
        (errno.ENOENT, INPUT),
        (errno.ENOTDIR, INPUT),
        (errno.EISDIR, INPUT),
        (errno.EEXIST, INPUT),
        (errno.ELOOP, INPUT),
        (errno.ENAMETOOLONG, INPUT),
        (errno.ENOSPC, INTERRUPTED),
        (errno.EDQUOT, INTERRUPTED),
        (errno.EIO, INTERRUPTED),
        (errno.ESTALE, INTERRUPTED),
    ],
)
def test_what_running_again_mends_and_what_it_does_not(number: int, code: int) -> None:
    found, message = exit_code_of(OSError(number, os.strerror(number), "/some/store"))
    assert found == code
    assert "/some/store" in message
    assert ("run the same command again" in message) == (code == INTERRUPTED)
    assert ("is full" in message) == (number in (errno.ENOSPC, errno.EDQUOT))
