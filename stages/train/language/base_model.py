"""Checks the LLaVA that training starts from before it is loaded: where it is, in whose form, and whether it is complete.

No torch here. Only names, sizes and the heads of files are read, so that a wrong folder costs no time.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from stages.names import type_name

ROOT = Path(__file__).resolve().parents[3]
"""The repository's root, from which relative paths start."""
Form = Literal["transformers", "haotian-liu"]
"""Who wrote the folder: ``save_pretrained``, or haotian-liu/LLaVA (``mm_*`` in config.json)."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files that hold or name the tensors. transformers takes the first that is there."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
"""Files that hold a tokenizer."""
_SMALL = (*TOKENIZERS, "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "chat_template.jinja", "chat_template.json")  # fmt: skip
_LFS = b"version https://git-lfs.github.com/spec/"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TAKE = "train.llava is the LLaVA that training starts from, e.g. llava-hf/llava-1.5-7b-hf"
TOWER = r"^(model\.)?vision_tower\."
"""Tensors of the vision tower, the only ones of a checkpoint that may stay unread."""
TRAINED = {
    r"(^|\.)lisa_\w+\.": "a trained LISA of LLM-Seg's kind",
    r"(^|\.)(text_hidden_fcs|visual_model)\.": "a trained LISA (GSVA and SESAME have the same tensors)",
    r"(^|\.)adapter\.(input_norm|norm|mlp|linears|skips|final_skip|blocks|mean_emb|std_emb)\b": "a trained ELISA",
    r"(^|\.)lora_[AB]\.": "a model with LoRA that is not merged into its weights",
}
"""Names of tensors that no LLaVA has -> what their owner is."""


def locate_llava(name: str) -> str:
    """Absolute path of a folder, or the id of a model on the Hugging Face hub. A relative path begins at the repository.

    Raises:
        ValueError: ``name`` is neither.
    """
    path = ROOT / Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise ValueError(f"{path}: found a file, expected a folder; {_TAKE}")
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"{path}: found no such folder, and {name!r} is not an id of the Hugging Face hub (OWNER/NAME)"
        )
    here = Path(name).absolute()
    if here.is_dir():
        raise ValueError(f"{name}: found in the working directory, but paths begin at {ROOT}; type {here}")
    return name


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder; ValueError if it is missing or something else."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{path}: found no such file, expected that of a LLaVA; {_instead(folder)}; {_TAKE}")
    return _read_object(path)


def form_of(config: Mapping[str, Any], where: object) -> Form:
    """Whose form a ``config.json`` has.

    Raises:
        ValueError: it is not of a LLaVA whose image is one grid of patches from one layer, or of a related
            model such as LLaVA-NeXT.
    """
    released = "mm_hidden_size" in config or "mm_vision_tower" in config
    kinds = ("llava", "llava_llama") if released else ("llava",)
    found = config.get("model_type")
    if found not in kinds:
        raise ValueError(
            f"{where}: model_type: found {found!r}, expected {' or '.join(map(repr, kinds))}: LLaVA v1, LLaVA-1.5 or "
            f"LLaVA-Gemma. Other models of the family read an image in another way; {_TAKE}"
        )
    for key, tiles in (("image_aspect_ratio", "anyres"), ("mm_patch_merge_type", "spatial")):
        if released and str(config.get(key, "")).startswith(tiles):
            raise ValueError(
                f"{where}: {key}: found {config[key]!r}, expected pad or square: LLaVA-NeXT cuts an image into tiles, and "
                f"the store holds the features of the whole one; {_TAKE}"
            )
    return "haotian-liu" if released else "transformers"


def check_folder(folder: Path) -> list[Path]:
    """Check that the files that will be read exist, are complete, and do not hold a trained system.

    Returns:
        Files of ``torch.save`` without an index of their tensors.

    Raises:
        ValueError: there is a Git-LFS pointer, an empty or truncated file, an index without its shards, or tensors of
            :data:`TRAINED`.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder}: found adapter_config.json: LoRA that is not merged into its LLaVA; {_TAKE}")
    for name in _SMALL:
        if (path := folder / name).exists():
            _check_there(path)
            if path.suffix == ".json":
                _read_object(path)
    chosen = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if chosen is None:
        raise ValueError(f"{folder}: found none of {', '.join(WEIGHTS)}; {_instead(folder)}")
    names: list[str] = []
    for path in _shards(chosen, names):
        _check_there(path)
        if path.suffix == ".safetensors":
            names += _tensors(path)
        else:
            _check_torch(path)
    refuse_trained(names, folder)
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise ValueError(f"{folder}: found no tokenizer, expected {' or '.join(TOKENIZERS)}; {_instead(folder)}")
    return [] if names else [chosen]


def refuse_trained(names: Iterable[str], where: object) -> None:
    """Raise ValueError if tensors of these names are of a trained system: it would be loaded without what it learned."""
    names = sorted(names)
    for pattern, owner in TRAINED.items():
        if own := [name for name in names if re.search(pattern, name)]:
            raise ValueError(
                f"{where}: this is {owner}: it has {len(own)} tensors that no LLaVA has, {_first(own)}. They would be dropped; "
                f"trained systems are not loaded yet. {_TAKE}"
            )


def refuse_tensors(missing: Iterable[str], unexpected: Iterable[str], where: object) -> None:
    """Raise ValueError, naming the first ones and their number, if the checkpoint lacks tensors of the model, or has others."""
    refuse_trained(unexpected, where)
    if more := sorted(unexpected):
        raise ValueError(
            f"{where}: {len(more)} tensors are in the files and not in the model: {_first(more)}. A LLaVA of another kind, or "
            f"a wrong mm_projector_type in config.json? {_TAKE}"
        )
    if lacking := sorted(missing):
        raise ValueError(f"{where}: {len(lacking)} tensors are missing, the first is {lacking[0]}")


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _shards(chosen: Path, names: list[str]) -> list[Path]:
    """The files of tensors; ``names`` gets what an index says is in them."""
    if chosen.suffix != ".json":
        return [chosen]
    _check_there(chosen)
    found = _read_object(chosen)
    index = found.get("weight_map")
    places = index if isinstance(index, dict) else {}
    files = sorted({file if isinstance(file, str) else "" for file in places.values()})
    if not files or not files[0] or not isinstance(found.get("metadata"), dict):
        raise ValueError(f"{chosen}: found no index, expected metadata and the weight_map of tensors and files")
    names += places
    paths = [chosen.parent / file for file in files]
    if outside := [path for path in paths if path.parent != chosen.parent or path.name in ("", "..")]:
        raise ValueError(f"{chosen}: names {outside[0]}, expected files of its own folder")
    if lacking := [path.name for path in paths if not path.exists()]:
        raise ValueError(
            f"{chosen}: {len(lacking)} of the {len(paths)} files it names are not there: {_first(lacking)}; fetch them again"
        )
    return paths


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: found no file, expected one")
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if head == _LFS:
        raise ValueError(
            f"{path}: found a Git-LFS pointer instead of the file; fetch it again, or in a clone type: "
            f"git -C {path.parent} lfs pull"
        )
    if not head:
        raise ValueError(f"{path}: found an empty file; fetch it again")


def _read_object(path: Path) -> dict[str, Any]:
    _check_there(path)
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: found no JSON: {error}; fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found a JSON {type_name(found)}, expected an object")
    return found


def _tensors(path: Path) -> list[str]:
    """Names of the tensors of a .safetensors, whose header says how long the file is."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 8 + length <= size else b""
    try:
        header = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: found no header of a .safetensors, or a part of one; fetch it again") from error
    if size != (expected := 8 + length + max(ends, default=0)):
        raise ValueError(f"{path}: found {size} bytes, expected {expected}: it was cut or changed; fetch it again")
    return [name for name in header if name != "__metadata__"]


def _check_torch(path: Path) -> None:
    """Raise ValueError if ``torch.save`` cannot have written it."""
    with path.open("rb") as file:
        head = file.read(4)
    whole = head[:1] == b"\x80"  # a pickle, as torch wrote them up to 1.5
    if head == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                whole = any(name.endswith("/data.pkl") for name in archive.namelist())
        except zipfile.BadZipFile:
            whole = False
    if not whole:
        raise ValueError(f"{path}: found no file of torch.save, or a part of one; fetch it again")


def _instead(folder: Path) -> str:
    """What a folder that lacks a file contains instead."""
    found = sorted(path.name for path in folder.iterdir())
    if "latest" in found or any(re.fullmatch(r"global_step\d+|mp_rank_\d+_model_states\.pt", name) for name in found):
        return "this is a DeepSpeed checkpoint, as LISA and LLM-Seg write them"
    if "trained.safetensors" in found:
        return "this is what `train` wrote"
    if any(name.endswith(".pth") for name in found):
        return "this may be a trained ELISA, which is saved as .pth"
    return f"the folder holds {_first(found)}" if found else "the folder is empty"
