"""The wheel holds the reader alone, under one name, and works without torch, zarr and dask."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import factory
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "store", folder / "store", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (folder / "dist").iterdir()
    return built


def test_it_has_one_top_level_name_and_its_types(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    (info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"elisa_store", info}
    assert info.startswith("elisa_store-")
    ours = {f"elisa_store/{path.name}" for path in (ROOT / "store").iterdir() if path.is_file()}
    assert {name for name in names if name.startswith("elisa_store/")} == ours
    assert "elisa_store/py.typed" in ours
    assert any(name.startswith(f"{info}/") and name.endswith("LICENSE") for name in names)


def test_it_asks_for_the_reader_needs_alone(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    metadata = archive.read(path).decode()
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].partition(">")[0] for line in needs) == ["google-crc32c", "numpy", "pyarrow"]
    assert "Requires-Python: >=3.10\n" in metadata


def test_it_reads_a_store_where_the_repository_is_not(wheel: Path, tmp_path: Path) -> None:
    factory.small_store(tmp_path / "store", [3, 0, 17, 1, 2])
    code = (
        "import sys; from elisa_store import open_split\n"
        f"split = open_split({str(tmp_path / 'store')!r}, 'd', 'val')\n"
        "print([len(record['mask_embeddings/x']) for record in split])\n"
        "print(sorted({'torch', 'zarr', 'dask', 'store', 'pydantic'} & set(sys.modules)))\n"
    )
    script = tmp_path / "read.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(wheel)!r})\n{code}")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[3, 0, 17, 1, 2]\n[]\n"), done.stderr
