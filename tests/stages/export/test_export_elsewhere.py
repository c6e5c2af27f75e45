"""What ``datasets``, ``webdataset`` and FiftyOne read of an export, each in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.export import FORMATS
from stages.export.content import Contents
from stages.export.write import write_export
from stages.photographs import PictureFile
from store import Split

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

UV = Path(sys.executable).parent / "uv"
NO_INDEX = re.compile(r"error sending request|failed to fetch|dns error|connect|timed out|network", re.IGNORECASE)

READ = {
    "hf": """
import glob, json, sys
import numpy as np
import pyarrow.parquet as pq
from datasets import Features, load_dataset
schema = pq.read_schema(glob.glob(sys.argv[1] + "/data/*.parquet")[0])
features = Features.from_dict(json.loads(schema.metadata[b"huggingface"])["info"]["features"])
assert {f.name: f.type for f in features.arrow_schema} == {f.name: f.type for f in schema}
rows = load_dataset(sys.argv[1], split="val", cache_dir=sys.argv[2])
found = []
for row in rows:
    assert row["image"].size == (row["width"], row["height"])
    for mask, target in zip(row["target_masks"], row["targets"], strict=True):
        found.append((target["texts"], np.asarray(mask)))
    vectors = [np.array(each, np.float32) for each in row["masks_x"]]
    found.append((["vectors"], np.concatenate(vectors) > 0 if vectors else np.zeros(0, bool)))
""",
    "webdataset": """
import glob, sys
import numpy as np
import webdataset
found = []
for sample in webdataset.WebDataset(sorted(glob.glob(sys.argv[1] + "/*.tar")), shardshuffle=False).decode("rgb8"):
    said = sample["json"]
    assert sample["jpg"].shape == (said["height_px"], said["width_px"], 3)
    assert sample["npy"].dtype == np.float16
    found += [(target["texts"], None) for target in said["targets"]]
    found.append((["vectors"], sample["npy"].astype(np.float32).ravel() > 0))
""",
    "fiftyone": """
import os, sys
os.environ["FIFTYONE_DO_NOT_TRACK"] = "1"
import numpy as np
from fiftyone.utils.data.importers import LegacyFiftyOneDatasetImporter
found = []
with LegacyFiftyOneDatasetImporter(sys.argv[1]) as importer:
    for sample in importer:
        assert os.path.isfile(sample.filepath)
        for detection in sample.targets.detections:
            mask = np.zeros((4, 6), bool)
            x, y, width, height = detection.bounding_box
            if detection.mask is not None:
                left, top = round(x * 6), round(y * 4)
                assert detection.mask.shape == (round(height * 4), round(width * 6))
                mask[top : top + len(detection.mask), left : left + detection.mask.shape[1]] = detection.mask
            found.append((list(detection.texts), mask))
        with_vectors = [each for each in sample.masks.detections if "embedding_x" in each.field_names]
        vectors = [np.asarray(each.embedding_x, np.float32) for each in with_vectors]
        found.append((["vectors"], np.concatenate(vectors) > 0 if vectors else np.zeros(0, bool)))
""",
}
TELL = """
import hashlib, json

def told(bits):
    return None if bits is None else hashlib.sha256(np.packbits(bits).tobytes()).hexdigest()

print(json.dumps([[texts, told(bits)] for texts, bits in found]))
"""
PACKAGES = {"hf": ["datasets", "pillow"], "webdataset": ["webdataset", "pillow"], "fiftyone": ["fiftyone"]}


def run(*words: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False)


def python_with(packages: list[str], folder: Path) -> Path:
    """The Python of a new environment with these packages."""
    assert run(UV, "venv", "--quiet", "--python", sys.executable, folder / "env", cwd=folder).returncode == 0
    python = folder / "env/bin/python"
    done = run(UV, "pip", "install", "--system-certs", "--python", python, *packages, cwd=folder)
    if done.returncode and NO_INDEX.search(done.stderr):
        pytest.skip(f"no package index within reach: {done.stderr.strip().splitlines()[-1].strip()}")
    assert done.returncode == 0, done.stderr
    return python


def expected(split: Split, with_masks: bool) -> list[Any]:
    def told(bits: np.ndarray) -> str:
        return hashlib.sha256(np.packbits(bits).tobytes()).hexdigest()

    found: list[Any] = []
    for record in split:
        for target in record.targets:
            mask = np.zeros((4, 6), bool)
            for k in target["instances"]:
                mask |= record.instances[k].decode()
            found.append([target["texts"], told(mask) if with_masks else None])
        found.append([["vectors"], told(record["mask_embeddings/x"].astype(np.float32).ravel() > 0)])
    return found


@pytest.mark.parametrize("to", READ)
def test_the_package_itself_reads_what_was_written(to: str, contents: Callable[..., Contents], tmp_path: Path) -> None:
    picture = tmp_path / "picture.jpg"
    Image.new("RGB", (6, 4), "red").save(picture)
    read = replace(
        contents(("masks", "targets"), pictures="copy", encoders=("x",)),
        photo=lambda row: PictureFile(picture.read_bytes(), picture),
    )
    write_export(FORMATS[to], read, tmp_path / "out", {"export": to})
    python = python_with(PACKAGES[to], tmp_path)
    script = tmp_path / "read.py"
    script.write_text(READ[to] + TELL)
    done = run(
        python, script, tmp_path / "out", tmp_path / "cache", cwd=tmp_path, HOME=str(tmp_path), HF_HUB_OFFLINE="1"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected(read.opened, to != "webdataset")
