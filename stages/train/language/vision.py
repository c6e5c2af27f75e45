"""Compares what a LLaVA expects of its vision tower with what a column of image features holds.

Equal widths and numbers of patches do not show that the layer and the class token agree. If these differ, a model would be
trained on features unlike those it was pre-trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from transformers import LlavaConfig

from stages.dense import dense_columns
from stages.encoders import ENCODERS, Encoder
from stages.train.language.base_model import form_of
from stages.train.language.llava import make_config, read_llava
from stages.train.params import TrainParams
from store.format.column import ColumnMeta
from store.split import Split

Facts = Mapping[str, Any]
"""Name of a property -> its value; unknown properties are missing."""
USUAL: Facts = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
"""The layer before the last, without the class token: LLaVA's, and what image_features are (docs/format.md)."""
MODULES: dict[str, Facts] = {
    "clip": {**USUAL, "vision_config.model_type": "clip_vision_model", "vision_config.hidden_act": "quick_gelu"}
}
"""Module of stages/encoders -> what it writes, in the words of transformers."""
TOWERS = {"clip-vit-large-patch14": "clip_vit_l14", "clip-vit-large-patch14-336": "clip_vit_l14_336"}
"""End of a name in ``mm_vision_tower`` -> encoder (OpenAI's, as published on the hub)."""
SELECTS = {"patch": "default", "cls_patch": "full"}
"""``mm_vision_select_feature`` of haotian-liu/LLaVA -> transformers' word."""


def feature_tokens(params: TrainParams, split: Split) -> int:
    """Number of patch features per image in a split.

    Raises:
        ValueError: they are not what ``train.llava`` expects of its vision tower.
    """
    meta = split.column(dense_columns(f"image_features/{params.image_encoder}", params.dense)[0]).meta
    where, raw = read_llava(params.llava)
    compare(expected(raw, where), stored(meta), where, meta.column)
    assert meta.array is not None
    return meta.array.row_shape[0]


def expected(raw: dict[str, Any], where: str) -> Facts:
    """What a ``config.json`` says of the tower."""
    if form_of(raw, where) == "transformers":
        return _of_config(make_config(raw, where))
    layer, select = raw.get("mm_vision_select_layer", -2), raw.get("mm_vision_select_feature", "patch")
    if not all(isinstance(number, int) for number in (layer if isinstance(layer, list) else [layer])):
        raise ValueError(f"{where}: config.json: mm_vision_select_layer: found {layer!r}, expected a number")
    facts: dict[str, Any] = {}
    if tower := raw.get("mm_vision_tower"):
        name = TOWERS.get(PurePosixPath(str(tower)).name)
        facts = {**(of_encoder(ENCODERS[name]) if name else {}), "mm_vision_tower": name or str(tower)}
        if name and select == "cls_patch":
            facts["patches"] += 1
    if width := raw.get("mm_hidden_size"):
        facts["width"] = width
    return facts | {"vision_feature_layer": layer, "vision_feature_select_strategy": SELECTS.get(select, select)}


def _of_config(config: LlavaConfig) -> Facts:
    tower, layer, select = config.vision_config, config.vision_feature_layer, config.vision_feature_select_strategy
    facts = {"vision_feature_layer": layer, "vision_feature_select_strategy": select}
    for key in ("model_type", "hidden_act", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"):
        if (value := getattr(tower, key, None)) is not None:
            facts[f"vision_config.{key}"] = value
    facts["width"] = tower.hidden_size * (len(layer) if isinstance(layer, Sequence) else 1)
    sides = (getattr(tower, "image_size", None), getattr(tower, "patch_size", None))
    if all(isinstance(side, int) for side in sides):
        facts["patches"] = (tower.image_size // tower.patch_size) ** 2 + (select == "full")
    return facts


def stored(meta: ColumnMeta) -> Facts:
    """What column.json records; for a column that no encoder of this project made, its shape and the usual properties."""
    assert meta.array is not None
    patches, width = meta.array.row_shape
    params = meta.identity.get("params") or {}
    facts = {**USUAL, **of_line(params.get("encoder") or {}), "patches": patches, "width": width}
    if weights := meta.identity.get("weights"):
        facts["mm_vision_tower"] = ", ".join(weights)
    return facts


def of_encoder(encoder: Encoder) -> dict[str, Any]:
    """The properties of the features that a line of ENCODERS gives."""
    line = {"module": encoder.module, "options": encoder.options}
    return of_line(line) | {"patches": encoder.tokens, "width": encoder.dim}


def of_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """The properties that an encoder's module and options imply."""
    names = {
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "input_px": "image_size",
        "patch_px": "patch_size",
    }
    options = line.get("options", {})
    facts = dict(MODULES.get(line.get("module", ""), {}))
    return facts | {f"vision_config.{name}": options[key] for key, name in names.items() if key in options}


def compare(wanted: Facts, found: Facts, where: str, column: str) -> None:
    """Raise ValueError, with both values of each differing property and what to do, unless a column has the wanted properties."""
    differ = differences(wanted, found)
    if not differ:
        return
    said = "; ".join(f"{key}: the model expects {wanted[key]!r}, the column has {found[key]!r}" for key in differ)
    fits = [
        name
        for name, encoder in ENCODERS.items()
        if encoder.kind == "image" and not differences(wanted, {**of_encoder(encoder), "mm_vision_tower": name})
    ]
    advice = (
        f"set train.image_encoder to {' or '.join(fits)} (first add it to embed.image_encoders, and run extract --stage embed)"
        if fits
        else "no image encoder here makes such features: set train.llava to a LLaVA with the column's tower"
    )
    raise ValueError(f"{column} does not hold what the vision tower of {where} would give: {said}; {advice}")


def differences(wanted: Facts, found: Facts) -> list[str]:
    """Names of the properties that both have with different values."""
    depth = wanted.get("vision_config.num_hidden_layers", found.get("vision_config.num_hidden_layers"))
    return [
        key
        for key in wanted
        if key in found
        and (
            _layers(wanted[key], depth) != _layers(found[key], depth)
            if key == "vision_feature_layer"
            else wanted[key] != found[key]
        )
    ]


def _layers(layer: int | Sequence[int], depth: int | None) -> list[int]:
    """Places among the hidden states (one more than layers); of 24 layers -2 and 23 are the same."""
    several = layer if isinstance(layer, Sequence) else [layer]
    return [number + depth + 1 if number < 0 and depth is not None else number for number in several]
