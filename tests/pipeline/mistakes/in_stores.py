"""Mistakes of order, damaged and foreign stores, buckets, weights, devices and disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
import urllib.request
from typing import Any

import pytest
from mistakes.mistake import Mistake, by_hand, does, instead, meant, types, without

from store.storage import mounts
from store.storage.objects import sealed


def indexed(project: Any, patch: pytest.MonkeyPatch) -> None:
    project.build("index")


def damaged(project: Any, patch: pytest.MonkeyPatch) -> None:
    path = project.store / "tiny/masks/sam/val/00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damaged_and_read(project: Any, patch: pytest.MonkeyPatch) -> None:
    damaged(project, patch)
    (project.store / "tiny/match/sam/targets/val/00001.parquet").unlink()


def changed(project: Any, patch: pytest.MonkeyPatch) -> None:
    project.build("index --split val")
    project.add_image("val", "gnu", 51)


def no_similarity(project: Any, patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(next((project.folder / "report").rglob("similarity")))


def newer(project: Any, patch: pytest.MonkeyPatch) -> None:
    for path in project.store.rglob("column.json"):
        value = json.loads(path.read_text())
        del value["checksum"]
        path.write_bytes(sealed({**value, "format_version": 3}))


def no_credentials(project: Any, patch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    patch.setattr("store.storage.remote._RETRIES", {"max_retries": 0})
    mounts._of_scheme.cache_clear()


def served(project: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("store.storage.remote._RETRIES", {"max_retries": 0})
    mounts._of_scheme.cache_clear()


def impatient(project: Any, patch: pytest.MonkeyPatch) -> None:
    import dask
    import distributed  # noqa: F401 - its defaults are in the configuration from then on

    patch.setitem(dask.config.config["distributed"]["comm"]["timeouts"], "connect", "1s")
    shutil.rmtree(project.store / "tiny/match/sam/targets/val")


def make_bucket(name: str) -> None:
    request = urllib.request.Request(f"{os.environ['AWS_ENDPOINT']}/{name}", method="PUT")
    urllib.request.urlopen(request).close()


def full(project: Any, patch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr("store.storage.files.os.fsync", fsync)
    shutil.rmtree(project.store / "tiny/match/sam/targets/val")


def no_gpu(project: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("torch.cuda.is_available", lambda: False)


def half_downloaded(project: Any, patch: pytest.MonkeyPatch) -> None:
    folder = project.folder / "weights"
    folder.mkdir()
    (folder / "sam_vit_b_01ec64.pth").write_bytes(b"PK\x03\x04" + bytes(5000))


def a_page(project: Any, patch: pytest.MonkeyPatch) -> None:
    (project.folder / "page.pth").write_text("<!DOCTYPE html><html>log in first</html>")


def no_network(project: Any, patch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        patch.setenv(name, "http://127.0.0.1:9")


OTHER = (
    "--set proposers.sam.model=sam_vit_b --set embed.sam_features=[] --replace --set run.weights_dir=$folder/weights"
)
THE_NETWORK = by_hand("the network")

# fmt: off
ROWS = (
    # Order
    Mistake("extract before index", "extract --split val", ("split tiny/val is not indexed",), types("index --split val"),
        on="tiny"),
    Mistake("embed before masks", "extract --split val --stage embed", ("split tiny/val: masks/sam shard 0 is missing",),
        types("extract --split val --stage masks"), made=indexed, on="tiny"),
    Mistake("normalize before embed", "normalize", ("mask_embeddings/sam/demo_alphaclip shard 0 is missing",),
        types("extract --split", rounds=2), made=indexed, on="tiny"),
    Mistake("other parameters for finished shards", "extract --split val --set proposers.sam.points_per_side=3",
        ("finished shards", "points_per_side: 2 -> 3"), types("extract --split val --replace"), on="finished"),
    # Bytes
    Mistake("damaged shard", "verify --deep --split val", ("damage: tiny/masks/sam/val shard 1",), types("verify --repair"),
        code=4, made=damaged, on="finished"),
    Mistake("store of a newer format", "info", ("found format version 3", "expected 2"),
        by_hand("a newer version of this program"), made=newer, on="finished"),
    Mistake("damaged shard that a stage reads", "extract --split val", ("masks/sam/val",), types("verify --repair"), code=4,
        made=damaged_and_read, on="finished"),
    Mistake("picture that changed after the index", "extract --split val --stage masks", ("changed since it was indexed",),
        types("index --split val"), made=changed, on="tiny"),
    Mistake("time of a first extract", "extract --split val --stage masks --dry-run", ("how long is not known",),
        types("--limit 1"), code=0, made=indexed, on="tiny"),
    Mistake("other parameters in a dry run",
        "extract --split val --stage masks --dry-run --set proposers.sam.points_per_side=3",
        ("would replace masks/sam: 2 finished shards",), types("--replace"), code=0, on="finished"),
    Mistake("pictures of a report that are gone", "report --split val", ("not there: similarity",), types(" normalize"), code=0,
        made=no_similarity, on="finished"),
    # Buckets
    Mistake("address of no kind", "info --set store=s4://bucket/store", ("store: found the address 's4://bucket/store'",
        "expected a folder or one of s3://"), instead("s4", r"one of (\w+)://"),
        made=lambda project, patch: make_bucket("bucket"), on="in_a_bucket"),
    Mistake("report in a bucket", "info --set run.report_dir=s3://bucket/x", ("run.report_dir: found the address",
        "expected a folder"), instead("s3://bucket/x", r"such as (\S+)")),
    Mistake("bucket without credentials", "info --set store=s3://bucket/store", ("s3://bucket",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), by_hand("an account"), made=no_credentials),
    Mistake("bucket that is not there", "index --split val --set store=s3://a-bucket/store",
        ("s3://a-bucket: there is no such bucket", "make it first"), does(lambda case: make_bucket("a-bucket")), made=served,
        on="in_a_bucket"),
    # Weights
    Mistake("weights that are not here", "extract --split val " + OTHER, ("sam_vit_b: found no file", "sam_vit_b_01ec64.pth",
        "type: python cli.py weights sam_vit_b"), THE_NETWORK, on="finished"),
    Mistake("weights that came in part", "extract --split val " + OTHER, ("sam_vit_b_01ec64.pth", "expected", "cut off",
        "python cli.py weights sam_vit_b"), THE_NETWORK, made=half_downloaded, on="finished"),
    Mistake("page in place of weights", "weights sam_vit_h --from $folder/page.pth", ("page.pth", "an HTML page",
        "of the registry; nothing was kept", "python cli.py weights sam_vit_h"), THE_NETWORK, made=a_page, on="finished"),
    Mistake("weights without a network", "weights sam_vit_b", ("what was fetched is kept", "--from FILE"), THE_NETWORK,
        made=no_network, on="finished"),
    Mistake("misspelt weights", "weights demo_sma", ("unknown weights 'demo_sma'", "choose one of"), meant("demo_sma")),
    Mistake("weights from a file, without a name", "weights --from page.pth", ("--from: found 0 names, expected one",),
        by_hand("a file that a person fetched")),
    Mistake("misspelt model", "extract --set proposers.sam.model=demo_sma", ("unknown SAM model 'demo_sma'", "choose one of"),
        meant("demo_sma")),
    Mistake("misspelt encoder in the params", "info --set embed.mask_encoders=[demo_alphaclp,demo_sam]",
        ("unknown mask encoder 'demo_alphaclp'", "choose one of"), meant("demo_alphaclp")),
    # Machines
    Mistake("GPU that is not there", "extract --device cuda", ("run.device: found cuda", "torch sees no GPU"),
        instead("--device cuda", r"use (--device cpu)"), made=no_gpu),
    Mistake("full disk", "extract --split val", ("the disk is full", "run the same command again"), lambda case: case.again(),
        code=75, made=full, on="finished"),
    Mistake("scheduler that is not there", "extract --scheduler tcp://127.0.0.1:9",
        ("--scheduler: cannot reach tcp://127.0.0.1:9",), without(r"leave out (--scheduler)"), made=impatient, on="finished"),
)
# fmt: on
