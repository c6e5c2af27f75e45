"""The wheel holds the reader alone, under one name; reads with its oldest Python and numpy, trains with torch, is typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import factory
import pytest

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).parent / "uv"
PYRIGHT = "pyright@1.1.414"
NO_INDEX = re.compile(r"error sending request|failed to fetch|dns error|connect|timed out|network", re.IGNORECASE)

READ = """
import hashlib, importlib.util, json, sys
import numpy as np
from elisa_store import Candidates, open_split
from elisa_store.format.schema import TABLES

def plain(value):
    if isinstance(value, np.ndarray):
        return [value.dtype.name, value.tolist()]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value

split = open_split(sys.argv[1], "d", "val")
arrays = ["mask_embeddings/sam/x", "instance_embeddings/x"]
fields = [f"{table}.{name}" for table, schema in TABLES.items() for name in schema.names]
vectors = [plain(record["mask_embeddings/sam/x"])[1] for record in split]
found = [
    [[plain(r[name]) for name in arrays], list(map(dict, r.targets)), [m.decode().tolist() for m in r.masks]] for r in split
]
found += split.to_arrow("masks").to_pylist()
for ragged in (False, True):
    for level in ("image", "target"):
        how = {"batch_size": 5, "shuffle": True, "ragged": ragged, "level": level}
        found += map(plain, split.stream([*arrays, *fields, *TABLES], **how))
        found += map(plain, split.stream([arrays[0], "match/sam/targets.iou"], candidates=Candidates(4, 0.9, True), **how))
print(json.dumps({
    "python": list(sys.version_info[:2]),
    "numpy": np.__version__,
    "others": [name for name in ("torch", "zarr", "dask", "store") if importlib.util.find_spec(name)],
    "vectors": vectors,
    "everything": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest(),
}))
"""

TRAIN = """
import sys
import torch
from elisa_store import open_split
from elisa_store.torch import loader

torch.manual_seed(0)
split = open_split(sys.argv[1], "d", "val")
stream = split.stream({"v": "mask_embeddings/sam/x", "iou": "match/sam/targets.iou"}, 8, shuffle=True, level="target")
batches = loader(stream, num_workers=int(sys.argv[2]))
head = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(head.parameters(), 0.01)
for epoch in range(3):
    losses = []
    for batch in batches:
        loss = (head(batch["v"].float())[..., 0] - batch["iou"]).square()[batch["v_mask"]].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(sum(losses) / len(losses))
"""

USER = """
from elisa_store import Candidates, mix, open_split

split = open_split("store", dataset="demo", split="val")
reveal_type(split)
reveal_type(split[0].masks)
stream = split.stream(["masks.area"], candidates=Candidates(top_k=3))
reveal_type(stream)
reveal_type(mix({"a": split}, ["masks.area"]).state_dict())
"""
TYPES = ["Split", "list[Region]", "Stream", "dict[str, Any]"]


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
    ours = {
        f"elisa_{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "store").rglob("*")
        if "__pycache__" not in path.parts and path.is_file()
    }
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
        "print([len(record['mask_embeddings/sam/x']) for record in split])\n"
        "print(sorted({'torch', 'zarr', 'dask', 'store', 'pydantic'} & set(sys.modules)))\n"
    )
    script = tmp_path / "read.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(wheel)!r})\n{code}")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[3, 0, 17, 1, 2]\n[]\n"), done.stderr


def run(*words: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False)


def script(folder: Path, source: str) -> Path:
    path = folder / "script.py"
    path.write_text(source)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> factory.Known:
    return factory.full_store(tmp_path_factory.mktemp("full"), images=23)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, to be put on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def python310() -> Path | None:
    """Python 3.10 as uv, PATH or pyenv know it."""
    found = run(UV, "python", "find", "--no-python-downloads", "3.10", cwd=ROOT).stdout.strip()
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in (found, shutil.which("python3.10"), *sorted(pyenv.glob("3.10.*/bin/python3.10"))):
        if path and run(path, "-c", "import sys; print(sys.version_info[:2])", cwd=ROOT).stdout == "(3, 10)\n":
            return Path(path)
    return None


@pytest.fixture(scope="module")
def oldest(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment: Python 3.10, numpy 1.24, the wheel, and nothing else of ours."""
    base = python310()
    if base is None:
        pytest.skip("no Python 3.10 on this machine (neither uv nor PATH nor pyenv has one)")
    folder = tmp_path_factory.mktemp("oldest")
    python = folder / "env/bin/python"
    made = run(UV, "venv", "--quiet", "--python", base, folder / "env", cwd=folder)
    assert made.returncode == 0, made.stderr
    done = run(UV, "pip", "install", "--system-certs", "--python", python, "numpy==1.24.*", wheel, cwd=folder)
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip(f"no package index within reach: {done.stderr.strip().splitlines()[-1].strip()}")
    assert done.returncode == 0, done.stderr
    return python


def test_it_reads_with_the_oldest_python_and_numpy(oldest: Path, known: factory.Known, tmp_path: Path) -> None:
    """Every record, field and kind of batch, and the same values as here."""
    done = run(oldest, "-I", "-W", "error", script(tmp_path, READ), known.store, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    there = json.loads(done.stdout)
    assert (there["python"], there["numpy"][:5], there["others"]) == ([3, 10], "1.24.", [])
    assert there["vectors"] == [own.tolist() for own in known.embeddings]
    here = run(
        sys.executable, script(tmp_path, READ.replace("elisa_store", "store")), known.store, cwd=ROOT, PYTHONPATH="."
    )
    assert there["everything"] == json.loads(here.stdout)["everything"], here.stderr


def test_it_says_what_its_torch_adapter_lacks(oldest: Path, tmp_path: Path) -> None:
    done = run(oldest, "-I", "-c", "import elisa_store.torch", cwd=tmp_path)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'torch'\n")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_it_trains_with_torch(installed: Path, known: factory.Known, tmp_path: Path, workers: str) -> None:
    path = script(tmp_path, TRAIN)
    done = run(sys.executable, "-W", "error", path, known.store, workers, cwd=tmp_path, PYTHONPATH=str(installed))
    assert (done.returncode, done.stderr) == (0, "")
    first, *_, last = map(float, done.stdout.split())
    assert last < 0.9 * first


def user_files(folder: Path) -> tuple[Path, Path]:
    """A file that uses the package rightly, and one that gives a number for a name."""
    right, wrong = folder / "right.py", folder / "wrong.py"
    right.write_text(USER)
    wrong.write_text('from elisa_store import open_split\n\nopen_split("store", 3, "val")\n')
    return right, wrong


def test_mypy_resolves_it(installed: Path, tmp_path: Path) -> None:
    def mypy(path: Path) -> subprocess.CompletedProcess[str]:
        options = ("--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}")
        return run(sys.executable, "-m", "mypy", *options, path, cwd=tmp_path, PYTHONPATH=str(installed))

    right, wrong = map(mypy, user_files(tmp_path))
    shown = re.findall(r'Revealed type is "(.+)"', right.stdout)
    assert [re.sub(r"elisa_store\.(\w+\.)+", "", name) for name in shown] == TYPES, right.stdout
    assert right.returncode == 0, right.stdout
    assert wrong.returncode == 1
    assert 'Argument 2 to "open_split" has incompatible type "int"; expected "str | None"' in wrong.stdout


def test_pyright_resolves_it(installed: Path, tmp_path: Path) -> None:
    command = ["pyright"] if shutil.which("pyright") else ["npx", "--yes", "--prefer-offline", PYRIGHT]
    if not shutil.which(command[0]) or run(*command, "--version", cwd=tmp_path).returncode:
        pytest.skip("no pyright: neither on PATH nor through npx")
    right, _ = user_files(tmp_path)
    right.write_text(f"from elisa_store.torch import loader\n{USER}reveal_type(loader(stream))\n")
    options = {"typeCheckingMode": "strict", "extraPaths": [str(installed)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    done = run(*command, "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path, cwd=tmp_path)
    said: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    shown = [each["message"] for each in said if each["severity"] == "information"]
    assert [re.findall(r' is "([^"]+)"$', message)[0] for message in shown] == [*TYPES, "Loader"], done.stdout
    (error,) = [each for each in said if each["severity"] == "error"]
    assert Path(error["file"]).name == "wrong.py"
    assert 'parameter "dataset" of type "str | None"' in error["message"]
