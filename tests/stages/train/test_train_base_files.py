"""A folder whose files are not whole is not loaded, and what is wrong with it is said."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.train.language.llava import load_llava
from stages.train.language.text import encode_prompt
from tests.stages.train.released import POINTER, refusal, released_folder, released_state


def test_an_empty_folder(tmp_path: Path) -> None:
    assert f"{tmp_path}/config.json: found no such file, expected that of a LLaVA; the folder is empty" in refusal(
        tmp_path
    )


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            POINTER,
            "found a Git-LFS pointer instead of the file; fetch it again, or in a clone type: git -C {folder} lfs pull",
        ),
        ("", "found an empty file"),
    ],
)
def test_a_pointer_or_nothing_instead_of_a_file(folder: Path, name: str, content: str, said: str) -> None:
    (folder / name).write_text(content)
    assert f"{folder / name}: {said.format(folder=folder)}" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.model", "pytorch_model.bin", "added_tokens.json"])
def test_a_pointer_in_a_released_folder(tmp_path: Path, name: str) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / name).write_text(POINTER)
    assert f"{folder / name}: found a Git-LFS pointer" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"])
def test_a_pointer_among_shards(tmp_path: Path, name: str) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="shards")
    (folder / name).write_text(POINTER)
    assert f"{folder / name}: found a Git-LFS pointer" in refusal(folder)


def test_a_pointer_to_what_is_not_read_is_nobody_s_business(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_text(POINTER)  # model.safetensors is there
    (folder / "tf_model.h5").write_text(POINTER)
    load_llava(str(folder), "float32")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html>", "found no JSON"), (b"[1]", "found a JSON list"), (b"\xff\xfe{", "found no JSON")],
)
def test_no_json(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    assert f"{folder / name}: {said}" in refusal(folder)


@pytest.mark.parametrize("left", [4, 8, 900, 60_000, -1])
def test_a_cut_safetensors(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    assert f"{path}: found " in refusal(folder)
    assert "fetch it again" in refusal(folder)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"PK\x03\x04 cut", b"x"])
def test_no_file_of_torch_save(tmp_path: Path, content: bytes) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / "pytorch_model.bin").write_bytes(content)
    assert f"{folder}/pytorch_model.bin: found no file of torch.save, or a part of one" in refusal(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_file_of_torch_save(tmp_path: Path, legacy: bool) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    path = folder / "pytorch_model.bin"
    torch.save(released_state(1, 403), path, _use_new_zipfile_serialization=not legacy)
    load_llava(str(folder), "float32")
    for cut in (200, path.stat().st_size // 2):
        path.write_bytes(path.read_bytes()[:-cut])
        assert "damaged" in refusal(folder) if legacy else f"{path}: found no file of torch.save" in refusal(folder)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "found no file of torch.save" in refusal(folder)


def test_one_whose_records_are_gone(tmp_path: Path) -> None:
    """The list of an archive is at its end: it may be there while what it lists is not."""
    folder = released_folder(tmp_path, 1, wraps=True)
    path = folder / "pytorch_model.bin"
    found = bytearray(path.read_bytes())
    found[: len(found) // 3] = bytes(len(found) // 3)
    found[:4] = b"PK\x03\x04"
    path.write_bytes(found)
    assert "damaged" in refusal(folder)


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    """Nobody is asked either: a question to the terminal would hang."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}})
    )
    (folder / "own.py").write_text("raise SystemExit('run')")
    with contextlib.suppress(ValueError):
        load_llava(str(folder), "float32")


@pytest.mark.parametrize("settings", [None, {"tokenizer_class": "LLaMATokenizer", "pad_token": "[PAD]"}])
def test_tokenizers_as_they_were_called_once(tmp_path: Path, settings: dict[str, str] | None) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    (folder / "tokenizer_config.json").unlink()
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model, tokenizer = load_llava(str(folder), "float32")
    assert encode_prompt(tokenizer, "x", 1)[0] == 1
    assert max(tokenizer.get_vocab().values()) < model.get_input_embeddings().num_embeddings


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('run')",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path, legacy: bool) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    torch.save({"x": Evil()}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert "are damaged, or are not plain tensors" in refusal(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    said = refusal(folder)
    assert f"{folder}: found none of model.safetensors, model.safetensors.index.json, pytorch_model.bin" in said
    assert "the folder holds " in said


def test_an_index_that_names_what_is_not_there(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="shards")
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    assert "1 of the 2 files it names are not there: pytorch_model-00002-of-00002.bin; fetch them again" in refusal(
        folder
    )


@pytest.mark.parametrize(
    "found", [{}, {"weight_map": []}, {"metadata": {}, "weight_map": {"a": 3}}, {"metadata": {}, "weight_map": {}}]
)
def test_an_index_of_nothing(tmp_path: Path, found: Any) -> None:
    folder = released_folder(tmp_path, 1, wraps=True, files="shards")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(found))
    assert "found no index, expected metadata and the weight_map" in refusal(folder)


def test_an_index_that_leads_elsewhere(tmp_path: Path) -> None:
    folder = released_folder(tmp_path / "a", 1, wraps=True, files="shards")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": "../x.bin"}}))
    assert "expected files of its own folder" in refusal(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "found no tokenizer, expected tokenizer.json or tokenizer.model" in refusal(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_tokenizer_of_something_else(folder: Path, tmp_path: Path, name: str) -> None:
    if name == "tokenizer.json":
        (folder / name).write_text('{"version": "1.0", "model": 3}')
    else:
        folder = released_folder(tmp_path / "v1", 1, wraps=True)
        (folder / name).write_bytes(b"no sentencepiece")
    assert f"{folder}: found no tokenizer that can be read" in refusal(folder)
