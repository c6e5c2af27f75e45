"""``make bench-dense``: features in int8 compared with float16: bytes, reading speed, similarity, and SAM's masks from them.

On a store that holds both forms (``python cli.py --set 'embed.dense=[float16, int8]' extract``), and on a SAM of the papers' size
whose random weights are calibrated so that it finds objects.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages.dense import channel_axis, dense_columns, widened
from stages.names import SplitRef
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam.model import build_sam
from stages.transforms import longest_side
from stages.weights import locate
from store import Split, open_split
from store.dense import from_int8, to_int8
from store.format.layout import column_dir
from tests.benchmarks import machine
from tests.benchmarks.report import table

F16 = npt.NDArray[np.float16]


def main() -> None:
    """Measure, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--split", default="demo/test", help="of a store that holds both forms (default: demo/test)")
    parser.add_argument("--random", default="vit_h", help="SAM with calibrated random weights; none: leave it out")
    parser.add_argument(
        "--rounds", type=int, default=5, help="passes over the split in each form, in turns (default: 5)"
    )
    parser.add_argument("--json", type=Path, help="all figures into this file")
    options = parser.parse_args()
    settings = load_settings(options.params, [])
    ref = SplitRef.of(options.split)
    split = open_split(settings.store_path, ref.dataset, ref.split)
    wide = [
        name for name in split.columns if name.count("/") == 1 and name.startswith(("sam_features/", "image_features/"))
    ]
    both = [name for name in wide if all(map(split.has, dense_columns(name, "int8")))]
    if not both:
        raise SystemExit(
            f"{ref}: found no features in both forms; type: python cli.py --params {options.params} "
            "--set 'embed.dense=[float16, int8]' extract"
        )
    found: dict[str, Any] = {"machine": machine.describe(Path())}
    found["columns"] = {
        name: of_column(split, settings.store_path / ref.dataset, name, options.rounds) for name in both
    }
    found["masks"] = {}
    for name in both:
        model = name.partition("/")[2]
        if name.startswith("sam_features/"):
            weights = SAM_MODELS[model].weights
            sam = build_sam(model, locate(weights, ROOT / settings.run.weights_dir, settings.weights_lock), "cpu")
            found["masks"][f"{model}, a point in each instance of {ref}"] = of_instances(sam, split, name)
    if options.random != "none":
        found["masks"][f"SAM {options.random}, calibrated random weights, one picture"] = of_points(options.random)
    rows = [
        [name, f"{each['float16_bytes'] / each['int8_bytes']:.2f}", f"{each['float16_s']:.2f}", f"{each['int8_s']:.2f}",
         f"{each['cosine_mean']:.5f}", f"{each['cosine_min']:.5f}"]
        for name, each in found["columns"].items()
    ]  # fmt: skip
    print(
        table(
            (
                "",
                "bytes, float16 / int8",
                "a pass, float16, s",
                "a pass, int8 to float16, s",
                "cosine, mean",
                "cosine, least",
            ),
            rows,
        )
    )
    rows = [
        [name, str(each["masks"]), f"{each['agree_mean']:.4f}", f"{each['agree_min']:.4f}", *(
            f"{each[key]:.4f}" if key in each else "" for key in ("float16_iou", "int8_iou"))]
        for name, each in found["masks"].items()
    ]  # fmt: skip
    print(table(("", "masks", "IoU of one with the other, mean", "least", "IoU with the truth, float16", "int8"), rows))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def of_column(split: Split, dataset: Path, name: str, rounds: int) -> dict[str, float]:
    """Bytes on disk, seconds of a pass in each form (medians, in turns), and cosines between tokens of the two."""
    values, scale = dense_columns(name, "int8")
    axis, seconds = channel_axis(name), {"float16": list[float](), "int8": list[float]()}
    for _ in range(rounds):
        for form, own in seconds.items():
            start = time.perf_counter()
            for batch in split.stream([name] if form == "float16" else [values, scale], 8, failed="skip"):
                if form == "int8":
                    from_int8(batch[values], batch[scale], axis)
            own.append(time.perf_counter() - start)
    cosines = np.concatenate([cosine(one, other, axis) for one, other in pairs(split, name)])
    return {
        "float16_bytes": bytes_of(dataset, split, [name]),
        "int8_bytes": bytes_of(dataset, split, [values, scale]),
        **{f"{form}_s": statistics.median(own) for form, own in seconds.items()},
        "cosine_mean": float(cosines.mean()),
        "cosine_min": float(cosines.min()),
    }


def bytes_of(dataset: Path, split: Split, columns: Sequence[str]) -> int:
    """Bytes of the shards of columns."""
    folders = [column_dir(dataset.parent, split.column(name).place) for name in columns]
    return sum(path.stat().st_size for folder in folders for path in (folder / "c").rglob("*") if path.is_file())


def pairs(split: Split, name: str) -> Iterator[tuple[F16, F16]]:
    """Of every image its float16 features, and those that int8 gives."""
    parts = dense_columns(name, "int8")
    for record in split:
        if record.status == "ok":
            yield record[name], widened(name, [record[part] for part in parts])


def cosine(one: F16, other: F16, axis: int) -> npt.NDArray[np.float64]:
    """Cosine of each token; 1 where both are zero."""
    left, right = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(left, axis=axis) * np.linalg.norm(right, axis=axis)
    return np.where(lengths > 0, (left * right).sum(axis) / np.where(lengths > 0, lengths, 1), 1.0).ravel()


@torch.inference_mode()
def of_instances(sam: Sam, split: Split, name: str) -> dict[str, float]:
    """SAM's best mask, by its own estimate, for the innermost point of every annotated instance, from each form."""
    truths, agree = {"float16_iou": list[float](), "int8_iou": list[float]()}, []
    for number, forms in enumerate(pairs(split, name)):
        record = split[number]
        size = (record.height_px, record.width_px)
        small = longest_side(size, sam.image_encoder.img_size)
        for instance in record.instances:
            truth = instance.decode()
            inner = cv2.distanceTransform(np.pad(truth, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(inner.argmax(), size)
            point = torch.tensor([[[(x + 0.5) * small[1] / size[1], (y + 0.5) * small[0] / size[0]]]])
            prompt = sam.prompt_encoder(points=(point, torch.ones(1, 1, dtype=torch.int)), boxes=None, masks=None)
            masks = [best(sam, form, prompt, small, size) for form in forms]
            for own, mask in zip(truths.values(), masks, strict=True):
                own.append(iou(mask, truth))
            agree.append(iou(*masks))
    return {**summary(agree), **{key: statistics.mean(own) for key, own in truths.items()}}


def best(sam: Sam, features: F16, prompt: Any, small: Any, size: Any) -> npt.NDArray[np.bool_]:
    """Bool [H, W]."""
    masks, scores = decoded(sam, features, prompt, small, size)
    found: npt.NDArray[np.bool_] = masks[0, int(scores[0].argmax())]
    return found


@torch.inference_mode()
def of_points(model: str) -> dict[str, float]:
    """Masks of a grid of points from both forms of one picture's embedding, all three of each point that are not empty."""
    from segment_anything.utils.amg import build_point_grid

    from tests.benchmarks.extraction.calibrated import calibrate, new_model, picture

    sam = new_model(model, 1024, "cpu")
    side = sam.image_encoder.img_size
    image = picture(side, side)
    calibrate(sam, image, 8)
    pixels = sam.preprocess(torch.as_tensor(image).permute(2, 0, 1)[None].float())
    whole = sam.image_encoder(pixels)[0].numpy()
    forms = [whole.astype(np.float16), from_int8(*to_int8(whole, -3), -3)]
    points, agree = torch.as_tensor(build_point_grid(8) * side), []
    for point in points[:, None, None].float():
        prompt = sam.prompt_encoder(points=(point, torch.ones(1, 1, dtype=torch.int)), boxes=None, masks=None)
        one, other = (decoded(sam, form, prompt, (side, side), (side, side))[0][0] for form in forms)
        agree += [iou(left, right) for left, right in zip(one, other, strict=True) if left.any() or right.any()]
    cosines = cosine(*forms, -3)
    return {**summary(agree), "cosine_mean": float(cosines.mean()), "cosine_min": float(cosines.min())}


def decoded(sam: Sam, features: F16, prompt: Any, small: Any, size: Any) -> tuple[npt.NDArray[np.bool_], torch.Tensor]:
    """The three masks of one prompt, bool [1, 3, H, W], and what SAM thinks of each, float [1, 3]."""
    sparse, dense = prompt
    logits, scores = sam.mask_decoder(
        image_embeddings=torch.from_numpy(features.astype(np.float32))[None],
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return (sam.postprocess_masks(logits, small, size) > 0).numpy(), scores


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """IoU of two masks; 1 if both are empty."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def summary(agree: Sequence[float]) -> dict[str, float]:
    """How masks of the two forms agree."""
    return {"masks": len(agree), "agree_mean": statistics.mean(agree), "agree_min": min(agree)}


if __name__ == "__main__":
    main()
