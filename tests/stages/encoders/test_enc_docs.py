from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

import stages.encoders
from stages.encoders import ENCODERS, Encoder, EncoderInput, build
from stages.transforms import IMAGENET_STATS, padded_input

PAGE = Path(__file__).parents[3] / "docs" / "add_an_encoder.md"


def test_the_page_s_example_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: np.ndarray, regions: list[np.ndarray]
) -> None:
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(file.splitlines()) <= 40
    assert max(map(len, file.splitlines())) <= 120
    (tmp_path / "resnet.py").write_text(file, encoding="utf-8")
    monkeypatch.setattr(stages.encoders, "__path__", [*stages.encoders.__path__, str(tmp_path)])
    lines = eval(f"{{{line}}}", {"Encoder": Encoder})
    monkeypatch.setitem(ENCODERS, "resnet18", lines["resnet18"])
    torch.manual_seed(0)
    network = resnet18().eval()
    save_file(network.state_dict(), tmp_path / "resnet18.safetensors")
    paths = {"resnet18": tmp_path / "resnet18.safetensors"}
    found = build("resnet18", paths, "cpu", 8)([EncoderInput(photo, regions)])[0]
    assert found.shape == (5, 512)
    pixels = padded_input(photo, 512, 32, IMAGENET_STATS, "cpu")
    seen = {}
    network.layer4.register_forward_hook(lambda _, __, output: seen.update(features=output[0]))
    with torch.no_grad():
        network(pixels)
    assert seen["features"].shape == (512, 12, 16)
    low, high = seen["features"].amin((1, 2)).numpy(), seen["features"].amax((1, 2)).numpy()
    assert ((found[:4] >= low - 1e-5) & (found[:4] <= high + 1e-5)).all()
    single = seen["features"][:, 5, 13].numpy()  # row 40, column 100 of 122 px
    assert found[2] @ single / np.linalg.norm(found[2]) / np.linalg.norm(single) > 0.9
    assert not found[4].any()
