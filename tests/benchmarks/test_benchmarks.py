"""The benchmarks' own code, on few records and without the peers: what the gate catches, what the report says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from store import ChangedError, DamagedStoreError
from tests.benchmarks import data, faults, gate, interpreter, report
from tests.benchmarks.data import PROFILES, Records
from tests.benchmarks.entries import ENTRIES, OURS
from tests.benchmarks.peers import memmap, ours
from tests.benchmarks.write import add_ours, new_column

RECORDS = Records(10)
LOCAL = [name for name, entry in ENTRIES.items() if entry.module in ("memmap", "ours")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    for name, module in (("memmap", memmap), ("ours", ours)):
        (root / name).mkdir()
        module.write(root / name, RECORDS)
    return root


def test_a_record_is_the_same_every_time() -> None:
    assert data.digest(data.record(3)) == data.digest(data.record(3))
    assert len({data.digest(record) for record in (*RECORDS, *Records(10, seed=1))}) == 20
    assert data.digest(data.record(3, narrow=True), whole=False) != data.digest(data.record(4), whole=False)


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("profile", PROFILES)
def test_our_loader_and_the_ceiling_pass_the_gate(root: Path, name: str, profile: str) -> None:
    expected = gate.canonical(root, RECORDS)
    loader = ENTRIES[name].loader(root, profile)
    for _ in range(2):
        gate.check(loader, profile, expected)


def spoil(batches: Any, how: str) -> Iterator[dict[str, Any]]:
    for batch in batches:
        if how == "byte":
            batch["masks"][0, 49, 767] += 1
        elif how == "text":
            batch["text"][0] += " "
        elif how == "rle":
            batch["rles"][-1][49] = batch["rles"][-1][49][::-1]
        elif how == "patches":
            batch["patches"][-1, 575, 1023] += 1
        elif how == "order":
            batch = {key: list(value)[::-1] if isinstance(value, list) else value for key, value in batch.items()}
        elif how == "strided":
            batch["patches"] = batch["patches"].transpose(1, 2).contiguous().transpose(1, 2)
        elif how == "missing":
            batch = {key: value[1:] for key, value in batch.items() if key in ("patches", "masks", "rles", "text")}
        yield batch


@pytest.mark.parametrize("how", ["byte", "text", "rle", "patches", "order", "strided", "missing"])
def test_the_gate_catches(root: Path, how: str) -> None:
    batches = spoil(memmap.loader(root / "memmap", "sequential"), how)
    with pytest.raises(gate.GateError):
        gate.check(batches, "sequential", gate.canonical(root, RECORDS))


def test_the_gate_catches_a_batch_that_changes_later(root: Path) -> None:
    reused = next(iter(memmap.loader(root / "memmap", "single")))

    def batches() -> Iterator[dict[str, Any]]:
        for batch in memmap.loader(root / "memmap", "single"):
            for key, value in batch.items():
                reused[key][:] = value
            yield reused

    with pytest.raises(gate.GateError, match="changed"):
        gate.digests(batches(), "single")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tmp_path_factory.mktemp("tiny")
    for name, seed in (("now", 0), ("older", 1)):
        ours.write(tiny / name, Records(faults.COUNT, seed))
    return tiny


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_no_fault_goes_unseen_in_our_store(tiny: Path, tmp_path: Path, fault: str) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(tiny / "now", bad)
    expected = gate.canonical(tiny, Records(faults.COUNT))["whole"]
    assert gate.digests(ours.loader(bad, "sequential"), "sequential") == expected
    faults.damage(fault, bad, tiny / "older", ours.index_byte(bad))
    with pytest.raises(ChangedError if fault == "older file restored" else DamagedStoreError):
        gate.digests(ours.loader(bad, "sequential"), "sequential")


def test_a_new_column_rewrites_nothing(tmp_path: Path) -> None:
    found = add_ours(tmp_path, Records(6, narrow=True), new_column(6))
    assert found["rewritten_bytes"] == 0
    assert found["new_bytes"] > 6 * 2 * 50 * 768


def test_the_report_says_what_was_found() -> None:
    figures = {"records_s": 100.0, "bytes_s": 1e9, "p99_ms": 5.0, "first_batch_ms": 10.0, "memory_mb": 1.0}
    rows = [
        {"entry": entry, "profile": profile, "condition": "warm", "repeat": 0, **figures}
        for entry in (OURS, "LitData", "numpy memmap")
        for profile in PROFILES
    ]
    rows[0] |= {"records_s": 160.0}
    document = {"machine": {"CPU": "x"}, "versions": {}, "records": 1, "results": rows, "memory_mb": [1, 1, 1]}
    document |= {"faults": {OURS: {"truncated": "detected"}}, "failed": {"Lance": "no wheel"}}
    text = report.read_report(json.loads(json.dumps(document)))
    assert "| **this store** | 160 (160 to 160) | 1.00 | 160% | 5.00 | 10 | 1 |" in text
    assert "| shuffled, 1.5x the best peer | 1.60x (LitData) | yes |" in text
    assert "| this store | 1 / 0 / 0 | detected |" in text
    assert "Not measured: Lance: no wheel" in text


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_shim_that_does_not_run_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pyenv puts on PATH is there for every version that is installed, and runs only for the chosen one."""
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    with pytest.raises(LookupError, match="python3.12: not on PATH"):
        interpreter.find("python3.12")
    shim = program(tmp_path / "shims/python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    with pytest.raises(LookupError, match="python3.12: does not run: pyenv: python3.12: command not found") as caught:
        interpreter.find("python3.12")
    assert "make bench-read BENCH_PYTHON=/path/to/python3.12" in str(caught.value)
    assert interpreter.OWN in str(caught.value)
    with pytest.raises(LookupError, match=r"make check-readers BENCH_PYTHON=/path/to/python3.12$"):
        interpreter.find("python3.12", "check-readers")
    names = interpreter.OWN.partition("--only ")[2].replace("'", "").replace("this store", "this").split()
    assert all(any(name in entry for entry in ENTRIES) for name in names)

    found = tmp_path / "pyenv/versions/3.12.1/bin/python"
    program(found, f"echo {found} 3 12")
    assert interpreter.find("python3.12") == str(found)
    program(found, f"echo {found} 3 11")
    with pytest.raises(LookupError, match="is Python 3.11"):
        interpreter.find("python3.12")
    program(shim, f"echo {shim} 3 13")
    assert interpreter.find("python3.12") == str(shim)
    make = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "python -m tests.benchmarks.interpreter $(BENCH_PYTHON)" in make
