"""A command that fails leaves the store byte for byte as it was, and leftovers that nobody asked for block nobody."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from store import IncompleteColumnError, open_split

OTHER_MASKS = ("--set", "proposers.sam.points_per_side=3")


def everything(folder: Path) -> dict[str, str]:
    """Every folder and file below, with the digest of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "/"
        for path in sorted(folder.rglob("*"))
    }


def without_weights(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    return ("--set", "proposers.sam.model=sam_vit_h", "--set", "embed.sam_features=[]")


def with_other_weights(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    folder = project.folder / "weights"
    folder.mkdir()
    (folder / "sam_vit_b_01ec64.pth").write_bytes(b"a page that says: not found")
    return ("--set", "proposers.sam.model=sam_vit_b", "--set", f"run.weights_dir={folder}")


def without_gpu(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    import torch

    patch.setattr(torch.cuda, "is_available", lambda: False)
    return (*OTHER_MASKS, "--set", "run.device=cuda")


def out_of_memory(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    import stages.proposers.sam.proposals

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("12 GB")

    patch.setattr(stages.proposers.sam.proposals.MaskGenerator, "propose", full)
    return OTHER_MASKS


def out_of_memory_when_loading(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    import stages.proposers.sam.proposals

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("12 GB")

    patch.setattr(stages.proposers.sam.proposals.MaskGenerator, "__init__", full)
    return OTHER_MASKS


def with_an_image_that_is_gone(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (project.data / "val/gnu.png").unlink()
    return OTHER_MASKS


def without_data(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    project.data.rename(project.folder / "unmounted")
    return OTHER_MASKS


def with_a_full_disk(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    import store.storage.files

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(store.storage.files.os, "fsync", full)
    return OTHER_MASKS


def read_only(project: Any, patch: pytest.MonkeyPatch) -> tuple[str, ...]:
    real = os.access
    patch.setattr(os, "access", lambda path, mode: real(path, mode) and not str(path).startswith(str(project.store)))
    return OTHER_MASKS


WAYS: dict[str, tuple[Callable[[Any, pytest.MonkeyPatch], tuple[str, ...]], int, str]] = {
    "no weights": (without_weights, 2, "type: python cli.py weights sam_vit_h"),
    "other weights": (with_other_weights, 2, "expected ec2df627"),
    "no GPU": (without_gpu, 2, "use --device cpu or --device auto"),
    "memory, computing": (out_of_memory, 75, "out of memory"),
    "memory, loading": (out_of_memory_when_loading, 75, "out of memory"),
    "an image is gone": (with_an_image_that_is_gone, 2, "changed since it was indexed"),
    "no data set": (without_data, 2, ""),
    "a full disk": (with_a_full_disk, 75, "the disk is full"),
    "no permission": (read_only, 2, "nothing was changed"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_extract_that_fails_changes_nothing(finished: Any, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    from pipeline.shard import _loaded

    _loaded.clear()
    before = everything(finished.store)
    prepare, code, words = WAYS[way]
    with monkeypatch.context() as patch:
        options = prepare(finished, patch)
        done = finished.run("extract", "--split", "val", "--replace", before=options)
    _loaded.clear()
    assert (done.code, words in done.err) == (code, True), done.err
    assert everything(finished.store) == before
    assert len(open_split(finished.store, "tiny", "val")) == 3


FAILING = {
    "another split is not indexed": (
        ("--set", "data.tiny.splits=[train,val,test]", "--set", "proposers.sam.points_per_side=3"),
        ("extract", "--replace"),
        "split tiny/test is not indexed",
    ),
    "weights of a later stage": (
        ("--set", "embed.mask_encoders=[dinov2_vits14]", *OTHER_MASKS),
        ("extract", "--replace"),
        "python cli.py weights dinov2_vits14",
    ),
    "an encoder that is not in the params": (
        (),
        ("extract", "--encoder", "dinov2_vits14"),
        "section embed of the params does not",
    ),
    "upstream is missing": (OTHER_MASKS, ("extract", "--stage", "embed", "--replace"), "masks/sam shard 0 is stale"),
    "finished shards, no --replace": (OTHER_MASKS, ("extract",), "points_per_side: 2 -> 3"),
    "an index without data": (("--set", "data.tiny.root=/nowhere"), ("index",), "no folder"),
    "an index of one split without data": (
        ("--set", "data.tiny.splits=[train,val,test]"),
        ("index",),
        "no folder 'test'",
    ),
    "a mean without embeddings": (
        ("--set", "means={other: {train: [train]}}", "--set", "embed.mask_encoders=[demo_sam,demo_dinov2]"),
        ("normalize",),
        "mask_embeddings/sam/demo_dinov2",
    ),
    "a split without embeddings": (
        ("--set", "means={other: {train: [train]}}", "--set", "data.tiny.splits=[train,val,test]"),
        ("normalize",),
        "split tiny/test is not indexed",
    ),
    "training without a model": (("--set", "train.llava=/nowhere"), ("train", "--system", "elisa"), "nowhere"),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_command_that_fails_changes_nothing(finished: Any, name: str) -> None:
    before = everything(finished.store)
    options, command, words = FAILING[name]
    done = finished.run(*command, before=options)
    assert (done.code, words in done.err) == (2, True), done.err
    assert everything(finished.store) == before


def test_an_index_that_fails_changes_nothing(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.image_rows

    def broken(path: Path, *_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    finished.add("val", "yak", 5)
    before = everything(finished.store)
    with monkeypatch.context() as patch:
        patch.setattr(stages.image_rows, "picture_size", broken)
        done = finished.run("index", "--split", "val")
    assert (done.code, "input or output failed" in done.err) == (75, True), done.err
    assert everything(finished.store) == before


@pytest.mark.parametrize("name", ["other", "tiny"])
def test_a_normalize_that_fails_changes_nothing(finished: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "tiny":  # one mean is to be computed again
        shutil.rmtree(finished.store / "means/tiny/sam/demo_sam")
    before = everything(finished.store)
    with monkeypatch.context() as patch:
        with_a_full_disk(finished, patch)
        done = finished.run("normalize", before=("--set", f"means={{{name}: {{train: [train]}}}}"))
    assert (done.code, "the disk is full" in done.err) == (75, True), done.err
    assert everything(finished.store) == before


def test_finished_shards_of_other_parameters_are_replaced_when_that_is_asked_for(finished: Any) -> None:
    old = finished.content()
    done = finished.run("extract", "--split", "val", before=OTHER_MASKS)
    assert done.code == 2
    for words in ("masks/sam: 2 finished shards", "points_per_side: 2 -> 3", "extract --split val --replace"):
        assert words in done.err
    plan = finished.run("extract", "--split", "val", "--stage", "masks", "--dry-run", before=OTHER_MASKS)
    assert plan.code == 0
    assert "would replace masks/sam: 2 finished shards (params.points_per_side: 2 -> 3)" in plan.out
    done = finished.run("extract", "--split", "val", "--replace", before=OTHER_MASKS)
    assert done.code == 0, done.err
    assert finished.content() != old
    finished.build("extract --split val --replace")
    assert finished.content() == old


def test_repair_asks_for_what_it_needs_before_it_removes(finished: Any) -> None:
    shard = finished.store / "tiny/masks/sam/val/00001.parquet"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    before = everything(finished.store)
    done = finished.run("verify", "--repair", before=OTHER_MASKS)
    assert (done.code, "repair it with the params file that made it" in done.err) == (2, True), done.err
    finished.data.rename(finished.folder / "unmounted")
    assert everything(finished.store) == before
    (finished.folder / "unmounted").rename(finished.data)
    assert finished.run("verify", "--repair").code == 0
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_repair_leaves_alone_what_these_params_cannot_make(finished: Any) -> None:
    vectors = finished.store / "tiny/image_features/demo_clip/val/c/0/0/0"
    vectors.write_bytes(bytes(len(vectors.read_bytes())))
    before = everything(finished.store)
    done = finished.run("verify", "--repair", before=("--set", "embed.image_encoders=[]"))
    assert done.code == 4
    assert "damage: tiny/image_features/demo_clip/val shard 0" in done.out
    assert "to repair it" not in done.out
    assert everything(finished.store) == before
    assert finished.run("verify", "--repair").code == 0


def test_columns_that_nobody_asked_for_block_nobody(finished: Any) -> None:
    """Empty folders, a column that was begun and never computed, and one that is stale and no longer in the params."""
    from pipeline.graph import stage_specs
    from pipeline.params_file import load_settings
    from pipeline.plan import expected_meta
    from store.write.writer import begin_column

    settings = load_settings(finished.params, ["embed.sam_features=[sam_vit_h]"])
    features = next(spec for spec in stage_specs(settings, "tiny", "masks") if spec.name == "sam_features/sam_vit_h")
    begin_column(finished.store / "tiny/sam_features/sam_vit_h/val", expected_meta(settings, "tiny", features, 3))
    (finished.store / "tiny/mask_embeddings/sam/empty/val/commits").mkdir(parents=True)
    assert len(open_split(finished.store, "tiny", "val")) == 3
    with pytest.raises(IncompleteColumnError, match="not computed"):
        open_split(finished.store, "tiny", "val", columns=["sam_features/sam_vit_h"])
    finished.configure(embed__image_encoders=[])
    finished.add("val", "yak", 5)
    finished.build("index", "extract --split val", "normalize")
    split = open_split(finished.store, "tiny", "val")
    assert len(split) == 4
    assert not {"image_features/demo_clip", "sam_features/sam_vit_h"} & set(split.columns)
    assert finished.run("verify", "--deep", "--complete").code == 0
    with pytest.raises(IncompleteColumnError, match="images (were added|changed) since"):
        open_split(finished.store, "tiny", "val", columns=["image_features/demo_clip"])
    finished.configure()
    finished.build("extract --split val", "normalize")
    assert "image_features/demo_clip" in open_split(finished.store, "tiny", "val").columns
    shutil.rmtree(finished.store / "tiny/sam_features/sam_vit_h/val")
    assert finished.run("verify", "--deep", "--complete").code == 0
