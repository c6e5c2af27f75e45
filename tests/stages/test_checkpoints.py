"""Files that are no weights, or another model's: refused before they are adopted, and where they are read."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pipeline.errors import INPUT, exit_code_of
from stages.adopt import adopt
from stages.checkpoints import WeightsError, kind_of
from stages.encoders import ENCODERS, alphaclip, dinov2
from stages.encoders.clip_vit import load_clip_visual, to_alphaclip
from stages.encoders.common import load_state
from stages.encoders.dinov2_vit import to_official
from stages.proposers.sam.model import build_sam
from stages.train.lisa.decoder import build_mask_decoder
from stages.train.trainer import load_trained
from stages.weights import WEIGHTS, expected_sha256, locate

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 359023\n"


def archive(state: object, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "hello")
    return buffer.getvalue()


STATE = {"weight": torch.zeros(64, 64), "bias": torch.ones(64)}
TORCH, OLD, SAFE = archive(STATE), archive(STATE, old=True), save(STATE)
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "an empty file"),
    "page": (b"\n<!DOCTYPE html>\n<html><title>Google Drive - Virus scan warning</title></html>", "an HTML page"),
    "page without a doctype": (b"<HTML lang='en'>\xc3\xa9</HTML>", "an HTML page"),
    "pointer": (POINTER, "a Git LFS pointer"),
    "text": (b"404: Not Found", "a text of 14 bytes that begins '404: Not Found'"),
    "JSON": (b'{"error": "quota exceeded"}', "a text"),
    "one byte": (b"P", "a text"),
    "half": (TORCH[: len(TORCH) // 2], "a torch archive of .* that is cut off"),
    "all but a byte": (TORCH[:-1], "a torch archive of .* that is cut off"),
    "half of the old form": (OLD[: len(OLD) // 2], "a pickle|a file"),
    "beginning of the old form": (OLD[:60], "a pickle|a file"),
    "half of a safetensors": (SAFE[: len(SAFE) // 2], "a safetensors file .* that is cut off"),
    "zip": (zipped(), "a zip archive"),
    "gzip": (b"\x1f\x8b" + bytes(99), "a gzip archive"),
    "zeros": (bytes(4096), "a file of 4096 bytes"),
    "list": (archive([1, 2]), "a torch archive"),
    "nested": (archive({"model": STATE}), "a torch archive"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "encoder": load_state,
    "clip": load_clip_visual,
    "sam": lambda path: build_sam("demo_sam", path, "cpu"),
    "lisa": lambda path: build_mask_decoder("demo_sam", path, 64),
    "trained": lambda path: load_trained(torch.nn.Linear(64, 64), path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FILES)
def test_whatever_a_file_is_its_reader_says_so_and_it_is_no_internal_error(
    name: str, reader: str, tmp_path: Path
) -> None:
    content, kind = FILES[name]
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        with pytest.raises((WeightsError, ValueError)) as caught:
            READERS[reader](path)
        assert (
            isinstance(caught.value, WeightsError)
            or "checkpoint" in str(caught.value)
            or "state dict" in str(caught.value)
        )
        assert str(path) in str(caught.value)
        assert exit_code_of(WeightsError(str(caught.value)))[0] == INPUT
    assert re.match(kind, kind_of(path)), kind_of(path)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without a digest: of a small AlphaCLIP over a CLIP that is not here, and of a small DINOv2."""
    demo = ENCODERS["demo_alphaclip"]
    for name, encoder in (
        ("small_alphaclip", replace(demo, weights=("small_clip", "small_alphaclip"))),
        ("small_dinov2", replace(ENCODERS["demo_dinov2"], weights=("small_dinov2",))),
    ):
        monkeypatch.setitem(ENCODERS, name, encoder)
        monkeypatch.setitem(WEIGHTS, name, replace(WEIGHTS["alphaclip_vit_b16"], name=name, path=f"{name}.pth"))


def right(name: str) -> dict[str, Any]:
    if name == "small_alphaclip":
        return to_alphaclip(alphaclip.make_model(ENCODERS[name]).state_dict())
    return to_official(dinov2.make_model(ENCODERS[name]).state_dict())


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["small_alphaclip", "small_dinov2"])
def test_a_file_is_opened_before_it_is_adopted(name: str, tmp_path: Path) -> None:
    folder, lock, mine = tmp_path / "weights", tmp_path / "weights.lock", tmp_path / "mine.bin"
    other = "small_dinov2" if name == "small_alphaclip" else "small_alphaclip"
    state = right(name)
    first = next(iter(state))
    wrong = {
        **{file: (content, kind) for file, (content, kind) in FILES.items()},
        "another model's": (archive(right(other)), "these are not this encoder's tensors"),
        "one tensor less": (archive({k: v for k, v in state.items() if k != first}), "1 missing"),
        "one tensor more": (archive({**state, "extra": torch.zeros(1)}), "1 not expected"),
        "another shape": (archive({**state, first: torch.zeros(3, 5)}), "1 of another shape"),
        "a safetensors": (save({k: v.contiguous() for k, v in state.items()}), "a safetensors file"),
    }
    for content, kind in wrong.values():
        mine.write_bytes(content)
        with pytest.raises(
            WeightsError, match=f"{name}: (.|\n)*{mine}(.|\n)*({kind})(.|\n)*nothing was kept; get it from"
        ):
            adopt(name, mine, folder, lock)
        assert list(folder.iterdir()) == []
        assert not lock.exists()
    with pytest.raises(WeightsError, match="found a folder"):
        adopt(name, tmp_path, folder, lock)

    mine.write_bytes(archive(state))
    assert adopt(name, mine, folder, lock) == locate(name, folder, lock) == folder / f"{name}.pth"

    # One that was adopted before files were opened is replaced on request, and only then.
    lock.write_text(json.dumps({name: "0" * 64}))
    with pytest.raises(WeightsError, match=f"weights {name} --from {mine} --replace"):
        adopt(name, mine, folder, lock)
    adopt(name, mine, folder, lock, replace=True)
    assert locate(name, folder, lock).read_bytes() == mine.read_bytes()
    assert expected_sha256(name, lock) != "0" * 64
