"""The examples of docs/examples that stream, train and use other tools run on a small store and say what is missing.

jax, xarray and duckdb are optional: where one is missing, its example has to say in one line what to install.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factory import Known, full_store

from store import open_split

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    "stream_with_numpy": None,
    "train_with_torch": None,
    "stream_with_jax": "jax",
    "read_with_xarray": "xarray",
    "query_with_duckdb": "duckdb",
}
"""Name -> the optional package that it needs."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("examples"), images=23)


def run(name: str, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", ROOT / f"docs/examples/{name}.py", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def output(name: str, known: Known, cwd: Path, *more: str | Path) -> str:
    """What an example prints about the store; skips where its package is missing, once that is said properly."""
    where = ["--store", known.store, "--dataset", "d", "--split", "val"]
    where += [] if name == "query_with_duckdb" else ["--column", "mask_embeddings/sam/x"]
    where += [] if name == "read_with_xarray" else ["--proposer", "sam"]
    done = run(name, *where, *more, cwd=cwd)
    package = EXAMPLES[name]
    if package is not None and importlib.util.find_spec(package) is None:
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"error: this example needs {package}; type: pip install {package}.*\n", done.stderr)
        return ""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_short_and_says_where_there_is_no_store(name: str, tmp_path: Path) -> None:
    text = (ROOT / f"docs/examples/{name}.py").read_text()
    assert text.count("\n") < 80
    assert all(f'"--{option}"' in text for option in ("store", "dataset", "split"))
    done = run(name, "--store", tmp_path / "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    package = EXAMPLES[name]
    if package is None or importlib.util.find_spec(package) is not None:
        assert re.fullmatch(r"error: \S+ holds no indexed split; .*\n", done.stderr)


def test_numpy_streams_each_question_once_over_a_resume(known: Known, tmp_path: Path) -> None:
    text = output("stream_with_numpy", known, tmp_path)
    questions = sum(map(len, known.targets))
    assert text.endswith(f"\n{questions} of {questions} questions came, each once\n")
    sizes = [int(size) for size in re.findall(r"^  \[(\d+), 32, 8\], ", text, re.MULTILINE)]
    assert sum(sizes) == questions
    assert (sizes[0], max(sizes)) == (4, 6)
    firsts = re.findall(r"first: image (\d+), 'which (\d+)-", text)
    assert len(firsts) == len(sizes)
    assert all(image == named for image, named in firsts)


def test_torch_goes_on_as_if_it_had_not_been_stopped(known: Known, tmp_path: Path) -> None:
    whole = output("train_with_torch", known, tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", whole)]
    assert len(losses) == 5
    assert losses[-1] < losses[0]
    stopped = output("train_with_torch", known, tmp_path, "--checkpoint", "head.pt", "--stop-after", "15")
    assert stopped.endswith("stopped after 15 steps; wrote head.pt\n")
    rest = output("train_with_torch", known, tmp_path, "--checkpoint", "head.pt")
    assert re.match(r"epoch 1 from sample [1-9]\d*: ", rest), "within an epoch"
    assert rest.splitlines()[1:] == whole.splitlines()[2:]


def test_jax_steps_are_compiled_once(known: Known, tmp_path: Path) -> None:
    text = output("stream_with_jax", known, tmp_path)
    if text:
        batches = sum(map(len, known.targets)) // 4
        assert len(re.findall(rf"^epoch \d: {batches} batches, loss 0\.\d+$", text, re.MULTILINE)) == 5
        assert text.endswith("compiled 1 time(s)\n")


def test_xarray_gives_the_values_of_our_reader(known: Known, tmp_path: Path) -> None:
    text = output("read_with_xarray", known, tmp_path, "--images", "23")
    if not text:
        return
    assert text.startswith("image 23, mask 32, dim 8\n")
    found = [(int(k), float(mean)) for k, mean in re.findall(r": (\d+) vectors, mean length ([\d.]+)", text)]
    for record, (count, mean) in zip(open_split(known.store, "d", "val"), found, strict=True):
        vectors = record["mask_embeddings/sam/x"].astype(np.float64)
        assert count == len(vectors)
        assert mean == pytest.approx(np.linalg.norm(vectors, axis=1).mean() if count else 0, abs=1e-4)
    example = importlib.util.spec_from_file_location("example", ROOT / "docs/examples/read_with_xarray.py")
    assert example is not None
    assert example.loader is not None
    module = importlib.util.module_from_spec(example)
    example.loader.exec_module(module)
    column = module.open_column(known.store / "d", "mask_embeddings/sam/x", "val", slice(3, 9))
    for image in column:
        want = open_split(known.store, "d", "val")[image.image.item()]["mask_embeddings/sam/x"]
        np.testing.assert_array_equal(image.dropna("mask"), want)


def test_duckdb_finds_the_questions_that_no_mask_answers(known: Known, tmp_path: Path) -> None:
    text = output("query_with_duckdb", known, tmp_path, "--limit", "1000")
    if not text:
        return
    asked = [target for record in open_split(known.store, "d", "val") for target in record.targets]
    best = {t["texts"][0]: max(t["iou"], default=0.0) for t in asked if t["instances"]}
    assert text.startswith(f"{len(best)} questions with an answer, mean best IoU {np.mean(list(best.values())):.4f}; ")
    rows = re.findall(r"^([\d.]+) best of \d+ masks, image image(\d+) .*: '(which (\d+)-\d+\?)'$", text, re.MULTILINE)
    assert [value for value, *_ in rows] == sorted(f"{value:.4f}" for value in best.values())
    assert all(f"{best[question]:.4f}" == value and image == named for value, image, question, named in rows)
