"""Every code block of docs/reading.md runs on a small store, and its tables name the options and errors that there are."""

from __future__ import annotations

import inspect
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store

import store
from store.split import Split

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/reading.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NOTEBOOK = BLOCKS[: next(number for number, block in enumerate(BLOCKS) if "torch.distributed" in block)]
DDP, ACCELERATE, TRAINER, ERRORS = BLOCKS[len(NOTEBOOK) :]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """A store with a split ``train`` next to what is returned of ``val``."""
    folder = tmp_path_factory.mktemp("reading")
    full_store(folder, 13, "train", seed=1)
    return full_store(folder, 23)


def here(block: str, known: Known) -> str:
    """A block with the names of the small store in place of the demo's."""
    names = {"elisa_store": "store", '"data/store"': repr(str(known.store)), 'dataset="demo"': 'dataset="d"'}
    for there, value in (names | {"demo_alphaclip": "x", "demo_sam": "sam", "Linear(64, 1)": "Linear(8, 1)"}).items():
        block = block.replace(there, value)
    return block


def test_the_blocks_run_one_after_the_other(known: Known) -> None:
    names: dict[str, Any] = {}
    found: list[dict[str, Any]] = []
    for block in NOTEBOOK:
        exec(here(block, known), names)
        found.append(dict(names))
    opened, proposers, record, tables, notebook, stream, view, mixed, resumed, torch = found
    assert proposers["found"] == {"sam": len(known.masks[3])}
    assert repr(opened["split"]).startswith("Split(d/val, 23 images")
    np.testing.assert_array_equal(record["vectors"], known.embeddings[3])
    assert opened["known"] == {"d": ["train", "val"]}
    assert opened["names"] == list(opened["split"].columns)
    assert opened["areas"] == [mask.sum() for mask in known.masks[3]] == sorted(opened["areas"], reverse=True)
    np.testing.assert_array_equal(record["pixels"], known.masks[3][0])
    assert record["size"][0] == record["pixels"].sum()
    assert record["answer"].shape == record["pixels"].shape
    assert 0 <= record["best"] <= 1
    assert record["some"]["image_index"].tolist() == [3, 7]
    assert len(tables["few"]) == 3
    assert [found.image_index for found in tables["chosen"]] == [7, 3]
    crowded = [image for image, masks in enumerate(known.masks) if len(masks) > 8]
    assert tables["crowded"].numbers == crowded
    assert sorted({int(image) for batch in tables["of_those"] for image in batch}) == crowded
    assert len(tables["table"]) == 23
    assert notebook["picture"].size == notebook["answers"].size == (24, 16), "four times as large as the image"
    assert stream["vectors"].shape == (stream["there"].sum(), 8)
    assert stream["iou"].shape == stream["vectors"].shape[:1]
    instances = [len(known.instances[image]) for image in view["batch"]["image_index"]]
    assert view["from_truth"].sum(axis=1).tolist() == instances
    assert np.bincount(mixed["sources"]).tolist() == [24, 8]
    assert resumed["rest"] == sum(map(len, known.targets)) - 8
    assert torch["state"]["epoch"] == 2
    assert torch["iou"].ndim == 1
    names = {"open_split": store.open_split}
    exec(here(ERRORS, known), names)
    assert names["there"] == {"d": ["train", "val"]}


def test_two_ranks_train_on_samples_of_their_own(known: Known, tmp_path: Path) -> None:
    path = tmp_path / "ddp.py"
    seen = 'seen += zip(batch["image_index"].tolist(), batch["target"].tolist())\n    there ='
    assert "there =" in DDP
    block = here(DDP, known).replace("there =", seen, 1)
    path.write_text(f"seen = []\n{block}print(seen)\nprint(model.module.weight.tolist())\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    env = os.environ | where | {"PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen([sys.executable, path], env=env | {"RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    outputs = [rank.communicate()[0].splitlines() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    (first, weights), (second, same) = outputs
    assert weights == same
    samples = [*eval(first), *eval(second)]
    assert len(samples) == len(set(samples)) >= 8
    assert len(eval(first)) == len(eval(second))


def test_the_trainer_resumes_within_an_epoch(known: Known, tmp_path: Path) -> None:
    import torch

    from store.torch import loader

    split = store.open_split(known.store, "d", "val")
    wanted = {"vectors": "mask_embeddings/sam/x", "iou": "match/sam/targets.iou"}
    names: dict[str, Any] = {"split": split, "wanted": wanted, "loader": loader}
    names["model"] = torch.nn.Linear(8, 1)
    names["optimizer"] = torch.optim.SGD(names["model"].parameters(), lr=0.1)
    exec(here(ACCELERATE, known), names)
    assert len(names["batches"]) == sum(map(len, known.targets)) // 4
    exec(here(TRAINER, known), names)

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(8, 1)
            self.seen: list[list[int]] = []

        def forward(self, vectors: Any, iou: Any, there: Any, image: Any) -> dict[str, Any]:
            self.seen.append(image.tolist())
            return {"loss": (self.linear(vectors.float())[..., 0] - iou).square()[there].mean()}

    def collate(batch: dict[str, Any]) -> dict[str, Any]:
        parts = {"vectors": "vectors", "iou": "iou", "there": "vectors_mask", "image": "image_index"}
        return {name: batch[key] for name, key in parts.items()}

    def trained(checkpoint: Path | None) -> Head:
        stream = split.stream(wanted, shuffle=True, level="target", tail="drop")
        head = Head()
        how = {"num_train_epochs": 2, "save_steps": 3, "report_to": [], "use_cpu": True, "disable_tqdm": True}
        names["train"](head, stream, collate, tmp_path, checkpoint, per_device_train_batch_size=4, **how)
        return head

    whole = trained(None)
    rest = trained(tmp_path / "checkpoint-3")
    assert len(whole.seen) > 6
    assert rest.seen == whole.seen[3:]
    assert torch.allclose(rest.linear.weight, whole.linear.weight)


@pytest.mark.parametrize(
    ("title", "function", "first"),
    [("open_split", store.open_split, 3), ("split.stream", Split.stream, 2), ("mix", store.mix, 3)],
)
def test_the_tables_have_every_option_and_its_default(title: str, function: Callable[..., Any], first: int) -> None:
    table = PAGE.partition(f"| option of `{title}` |")[2].partition("\n\n")[0]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:3]) for line in table.splitlines()[2:]]
    options = list(inspect.signature(function).parameters.values())[first:]
    of_mixtures = {"weights", "length"}  # one function; the table of mix says what is of use for several splits alone
    wanted = [each for each in options if title == "open_split" or (each.name in of_mixtures) == (title == "mix")]
    assert rows == [(f"`{each.name}`", f"`{each.default!r}`") for each in wanted]


def test_the_table_of_errors_has_every_one() -> None:
    errors = {name for name in store.__all__ if name.endswith("Error")}
    assert errors <= set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
