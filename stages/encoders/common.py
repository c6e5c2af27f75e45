"""Parts every encoder shares: checkpoint files, and networks that run once per image."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import nn

from stages.checkpoints import WeightsError, reading
from stages.transforms import ImageArray

Mask = npt.NDArray[np.bool_]
State = dict[str, torch.Tensor]
Network = TypeVar("Network", bound=nn.Module)

_TYPE_THIS = "python cli.py weights lists every file, where it comes from and whether it is here"


def load_state(path: Path) -> State:
    """Tensors of a .safetensors or a .pth/.pt/.bin file (``weights_only=True``), float32 on the CPU.

    Raises WeightsError if the file cannot be read that way.
    """
    with reading(path):
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tensor.float() for key, tensor in state.items()}


def check_keys(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise WeightsError unless ``found`` has exactly the keys and shapes of ``expected``."""
    missing = sorted(expected.keys() - found.keys())
    surplus = sorted(found.keys() - expected.keys())
    differ = [
        f"{key} {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & found.keys())
        if found[key].shape != expected[key].shape
    ]
    if missing or surplus or differ:
        problems = {"missing": missing, "not expected": surplus, "of another shape": differ}
        text = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys)
        raise WeightsError(f"{source}: these are not this encoder's tensors ({text}). {_TYPE_THIS}")


def load_into(make: Callable[[], Network], state: State, source: str, device: str) -> Network:
    """Make a frozen model in eval mode with exactly these tensors (no random initialisation is computed)."""
    with torch.device("meta"):
        model = make()
    check_keys(state, model.state_dict(), source)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval().to(device)


def once_an_image(compute: Callable[[ImageArray], torch.Tensor]) -> Callable[[ImageArray], torch.Tensor]:
    """``compute`` for one image, with its result cached for as long as the array itself exists.

    An encoder is called for an image's proposals and again for its instances, but its network runs only once. It sees one image
    at a time, so its output cannot depend on which other images or columns are computed in the same run.
    """
    kept: dict[int, torch.Tensor] = {}

    def call(image: ImageArray) -> torch.Tensor:
        key = id(image)
        if key not in kept:
            kept[key] = compute(image)
            weakref.finalize(image, kept.pop, key, None).atexit = False
        return kept[key]

    return call
