"""A language model that expects other image features than the column holds is refused, with both values and what to do."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.embed import columns
from stages.encoders import ENCODERS
from stages.params import Sections, Shared
from stages.train import run
from stages.train.language.base_model import ROOT
from stages.train.language.vision import compare, expected, feature_tokens, stored
from stages.train.params import TrainParams
from store.format.column import ColumnMeta, fingerprint
from store.split import Split
from tests.stages.train.released import released_folder

L336 = "clip_vit_l14_336"
HF_336 = {
    "model_type": "llava",
    "text_config": {"model_type": "llama"},
    "vision_config": {
        "model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
        "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768, "vocab_size": 32000,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}  # fmt: skip
"""As llava-hf/llava-1.5-7b-hf's."""
V1 = {"model_type": "llava", "mm_hidden_size": 1024, "mm_vision_select_layer": -2, "hidden_size": 4096}
V15 = {**V1, "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_feature": "patch"}


def column(name: str) -> ColumnMeta:
    """The metadata of image_features/NAME as the pipeline writes it."""
    import yaml

    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["embed"]["image_encoders"] = [name]
    data = values["data"]["demo"]
    sections = Sections.model_validate({key: values[key] for key in Shared.model_fields} | {"data": data})
    (spec,) = (spec for spec in columns(sections) if spec.name == f"image_features/{name}")
    weights = {weight: "0" * 64 for weight in spec.weights}
    identity = json.loads(json.dumps({"stage": "embed", "params": dict(spec.params), "weights": weights}))
    return ColumnMeta(spec.name, identity, fingerprint(identity), 3, 2, spec.layout)


def check(raw: dict[str, Any], name: str) -> None:
    meta = column(name)
    compare(expected(raw, "llava"), stored(meta), "llava", meta.column)


def refusal(raw: dict[str, Any], name: str) -> str:
    with pytest.raises(ValueError, match=f"image_features/{name} does not hold what the vision tower of llava would give"
    ) as caught:  # fmt: skip
        check(raw, name)
    return str(caught.value)


def vision(**changes: Any) -> dict[str, Any]:
    return {**HF_336, "vision_config": {**HF_336["vision_config"], **changes}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (HF_336, L336),
        ({**HF_336, "vision_feature_layer": 23}, L336),  # of 24 layers the same one
        ({**HF_336, "vision_feature_layer": [-2]}, L336),
        (vision(image_size=224), "clip_vit_l14"),
        (
            {"model_type": "llava", "text_config": {"model_type": "gemma"}},
            L336,
        ),  # transformers' own defaults
        (V15, L336),
        (
            {**V15, "mm_vision_select_layer": -2, "mm_vision_tower": "/data/clip-vit-large-patch14-336"},
            L336,
        ),
        ({**V1, "mm_vision_tower": "openai/clip-vit-large-patch14"}, "clip_vit_l14"),
        (V1, "clip_vit_l14"),
        (json.loads((ROOT / "demo/models/demo_llava/config.json").read_text()), "demo_clip"),
    ],
)
def test_what_fits(raw: dict[str, Any], name: str) -> None:
    check(raw, name)


@pytest.mark.parametrize(
    ("raw", "name", "said"),
    [
        ({**HF_336, "vision_feature_layer": -1}, L336, "layer: the model expects -1, the column has -2"),
        ({**HF_336, "vision_feature_layer": 22}, L336, "layer: the model expects 22, the column has -2"),
        (
            {**HF_336, "vision_feature_layer": [-2, -5]},
            L336,
            "[-2, -5], the column has -2; width: the model expects 2048, the column has 1024",
        ),
        (
            {**HF_336, "vision_feature_select_strategy": "full"},
            L336,
            "vision_feature_select_strategy: the model expects 'full', the column has 'default'; "
            "patches: the model expects 577, the column has 576",
        ),
        (HF_336, "clip_vit_l14", "patches: the model expects 576, the column has 256"),
        (HF_336, "demo_clip", "width: the model expects 1024, the column has 128"),
        (vision(model_type="siglip_vision_model"), L336, "expects 'siglip_vision_model', the column has 'clip_vision"),
        (vision(hidden_act="gelu"), L336, "hidden_act: the model expects 'gelu', the column has 'quick_gelu'"),
        (vision(hidden_size=768, num_attention_heads=12), L336, "width: the model expects 768, the column has 1024"),
        (vision(patch_size=16), L336, "vision_config.patch_size: the model expects 16, the column has 14"),
        (V15, "clip_vit_l14", "mm_vision_tower: the model expects 'clip_vit_l14_336', the column has 'clip_vit_l14'"),
        ({**V15, "mm_vision_tower": "google/siglip-so400m-patch14-384"}, L336, "expects 'google/siglip-so400m-patch14-384'"),
        ({**V15, "mm_vision_select_layer": -1}, L336, "layer: the model expects -1, the column has -2"),
        ({**V15, "mm_vision_select_layer": [-2, -5]}, L336, "the model expects [-2, -5], the column has -2"),
        (
            {**V15, "mm_vision_select_feature": "cls_patch"},
            L336,
            "patches: the model expects 577, the column has 576",
        ),
        ({**V1, "mm_hidden_size": 768}, "clip_vit_l14", "width: the model expects 768, the column has 1024"),
    ],
)  # fmt: skip
def test_what_does_not_fit(raw: dict[str, Any], name: str, said: str) -> None:
    assert said in refusal(raw, name)


def test_it_says_which_encoder_would_do() -> None:
    assert "set train.image_encoder to clip_vit_l14_336 (first add it to embed.image_encoders" in refusal(
        HF_336, "clip_vit_l14"
    )
    assert "set train.image_encoder to clip_vit_l14 (" in refusal(vision(image_size=224), "demo_clip")
    assert "set train.image_encoder to clip_vit_l14_336 (" in refusal(V15, "demo_clip")
    assert "no image encoder here makes such features" in refusal({**HF_336, "vision_feature_layer": -1}, L336)


def test_each_encoder_of_images_says_what_it_makes() -> None:
    for name, encoder in ENCODERS.items():
        if encoder.kind == "image":
            facts = stored(column(name))
            assert facts["vision_feature_layer"] == -2
            assert facts["patches"] == (encoder.options["input_px"] // encoder.options["patch_px"]) ** 2


def test_a_layer_that_is_no_number() -> None:
    with pytest.raises(ValueError, match="mm_vision_select_layer: found 'x', expected a number"):
        check({**V15, "mm_vision_select_layer": "x"}, L336)


@pytest.mark.parametrize("system", ["llmseg", "lisa"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_feature_layer": -1}, "layer: the model expects -1, the column has -2"),
        ({"vision_feature_select_strategy": "full"}, "patches: the model expects 17, the column has 16"),
        ({"model_type": "llava_next"}, "model_type: found 'llava_next', expected 'llava'"),
        ({"vision_config": {"image_size": 336}}, "patches: the model expects 1764, the column has 16"),
        ({"vision_config": {"hidden_size": 26}}, "width: the model expects 26, the column has 24"),
    ],
)
def test_no_system_is_built_on_other_features(
    seg_params: Callable[..., TrainParams], seg_split: Split, sam_weights: Callable[[str], Path], tmp_path: Path,
    system: str, changes: dict[str, Any], said: str,
) -> None:  # fmt: skip
    params = seg_params(system)
    folder = Path(shutil.copytree(params.llava, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    assert feature_tokens(params, seg_split) == 16
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words come next
        run.system_class(system).build(params.model_copy(update={"llava": str(folder)}), seg_split, "cpu", sam_weights)
    assert said in str(caught.value)


def test_every_split_that_is_trained_on_is_compared(
    seg_params: Callable[..., TrainParams], seg_split: Split, sam_weights: Callable[[str], Path], tmp_path: Path
) -> None:
    columns, name = dict(seg_split.columns), "image_features/tiny"
    other = columns[name] = copy.copy(columns[name])
    assert other.meta.array is not None
    other.meta = replace(other.meta, array=replace(other.meta.array, row_shape=(25, 24)))
    splits = {"val": seg_split, "more": Split(seg_split.dataset, seg_split.split, columns, None, seg_split.tables)}
    with pytest.raises(ValueError, match="patches: the model expects 16, the column has 25"):
        run.train(seg_params("llmseg"), "llmseg", splits, tmp_path, "cpu", sam_weights)
    assert not (tmp_path / "checkpoints").exists()


def test_a_released_folder_on_a_column_that_says_nothing(
    seg_params: Callable[..., TrainParams], seg_split: Split, tmp_path: Path
) -> None:
    """Its tower's name says how many patches there are."""
    folder = released_folder(tmp_path / "v1", 1, wraps=True)
    params = seg_params("llmseg").model_copy(update={"llava": str(folder)})
    with pytest.raises(ValueError, match="patches: the model expects 256, the column has 16"):
        feature_tokens(params, seg_split)
    config = json.loads((folder / "config.json").read_text())
    del config["mm_vision_tower"]
    (folder / "config.json").write_text(json.dumps(config))
    assert feature_tokens(params, seg_split) == 16
