"""How well everything mode finds the objects of scenes: `python -m demo.measure.quality --scenes 200 --first-seed N`.

Runs segment_anything's own SamAutomaticMaskGenerator with `demo_sam`. An object's best IoU is that of the best of all
proposals against its visible mask; recall is the part of the objects whose best IoU is 0.5 or more. Intervals are 95 %
percentile bootstraps over scenes, since the objects of a scene are not independent.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from torchvision.ops import nms
from tqdm import tqdm

from demo.data.scenes import Scene, scene
from stages.proposers.sam.model import build_sam

MODEL = Path(__file__).parents[1] / "models" / "demo_sam.safetensors"
MASKS_BAR = 25  # more proposals per image than this are no useful answer
FITTED = {
    "pred_iou_thresh": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8),
    "stability_score_thresh": (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "box_nms_thresh": (0.5, 0.6, 0.7, 0.8, 0.9),
}
BOOTSTRAPS = 2000


@dataclass(frozen=True)
class Proposals:
    """The parameters of SamAutomaticMaskGenerator that were fitted; the others keep their official defaults."""

    points_per_side: int = 12
    pred_iou_thresh: float = 0.4
    stability_score_thresh: float = 0.0
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.8
    points_per_batch: int = 64

    def generator(self, sam: Sam) -> SamAutomaticMaskGenerator:
        """The official generator with these parameters."""
        return SamAutomaticMaskGenerator(sam, **vars(self))


@dataclass(frozen=True)
class SceneResult:
    """Result of one scene: each object's best IoU, float64 [N], the number of proposals, and the seconds they took."""

    best_iou: NDArray[np.float64]
    masks: int
    seconds: float


def best_ious(drawn: Scene, masks: list[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """The best IoU of any of the proposals, bool [H, W] each, with every object's visible mask, float64 [N]."""
    objects = np.stack([thing.visible for thing in drawn.objects]).reshape(len(drawn.objects), -1)
    best = np.zeros(len(objects))
    for mask in masks:
        inside = objects[:, mask.reshape(-1)].sum(1)
        best = np.maximum(best, inside / (objects.sum(1) + mask.sum() - inside))
    return best


def proposal_quality(seeds: Iterable[int], sam: Sam, proposals: Proposals) -> list[SceneResult]:
    """Run everything mode on the scenes of these seeds."""
    generator = proposals.generator(sam)
    results = []
    for seed in tqdm(list(seeds), unit="scene", disable=None):
        drawn = scene(seed)
        begun = time.monotonic()
        masks = [record["segmentation"] for record in generator.generate(drawn.image)]
        seconds = time.monotonic() - begun
        results.append(SceneResult(best_ious(drawn, masks), len(masks), seconds))
    return results


def interval(
    results: list[SceneResult], statistic: Callable[[list[SceneResult]], float], seed: int = 0
) -> tuple[float, float, float]:
    """The statistic of all scenes, and its 95 % bootstrap interval over scenes."""
    rng = np.random.default_rng(seed)
    draws = [statistic([results[i] for i in rng.integers(0, len(results), len(results))]) for _ in range(BOOTSTRAPS)]
    low, high = np.percentile(draws, (2.5, 97.5))
    return statistic(results), float(low), float(high)


def mean_best_iou(results: list[SceneResult]) -> float:
    """Mean over all objects of all scenes."""
    return float(np.concatenate([result.best_iou for result in results]).mean())


def recall(results: list[SceneResult]) -> float:
    """The share of all objects that a proposal meets with IoU 0.5 or more."""
    return float((np.concatenate([result.best_iou for result in results]) >= 0.5).mean())


def masks_per_image(results: list[SceneResult]) -> float:
    """Mean number of proposals."""
    return float(np.mean([result.masks for result in results]))


def table(results: list[SceneResult]) -> str:
    """A markdown table with 95 % intervals."""
    lines = ["| measure | value | 95 % interval |", "|---|---|---|"]
    for name, statistic in (
        ("mean best IoU", mean_best_iou),
        ("recall at IoU 0.5", recall),
        ("masks per image", masks_per_image),
    ):
        value, low, high = interval(results, statistic)
        lines.append(f"| {name} | {value:.3f} | {low:.3f} to {high:.3f} |")
    objects = sum(len(result.best_iou) for result in results)
    lines.append(f"| scenes / objects | {len(results)} / {objects} | |")
    lines.append(f"| seconds per image | {np.mean([result.seconds for result in results]):.2f} | |")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Candidates:
    """Candidates of one scene, before any filter: boxes float32 [K, 4] x0 y0 x1 y1, scores [K], and IoU with each object [K, N]."""

    boxes: torch.Tensor
    predicted_iou: torch.Tensor
    stability_score: NDArray[np.float64]
    iou: NDArray[np.float64]

    def result(self, proposals: Proposals) -> SceneResult:
        """What the generator with these thresholds would have given: it filters first and suppresses boxes last."""
        kept = self.predicted_iou.numpy() > proposals.pred_iou_thresh
        kept &= self.stability_score >= proposals.stability_score_thresh
        some = np.flatnonzero(kept)
        order = nms(self.boxes[some], self.predicted_iou[some], proposals.box_nms_thresh).numpy()
        best = self.iou[some[order]].max(0) if len(order) else np.zeros(self.iou.shape[1])
        return SceneResult(best, len(order), 0.0)


def _candidates(seed: int, generator: SamAutomaticMaskGenerator) -> _Candidates:
    drawn = scene(seed)
    records = generator.generate(drawn.image)
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return _Candidates(
        boxes,
        torch.tensor([record["predicted_iou"] for record in records]),
        np.array([record["stability_score"] for record in records]),
        np.array([best_ious(drawn, [record["segmentation"]]) for record in records]).reshape(-1, len(drawn.objects)),
    )


def fit(seeds: Iterable[int], sam: Sam, points_per_side: int) -> Proposals:
    """Of the thresholds with at most MASKS_BAR masks per image, those with the highest sum of mean best IoU and recall.

    Everything mode runs once per scene with all but the lowest thresholds off; the thresholds are then tried on what it
    gave, which is exact: the generator filters every mask by itself and suppresses overlapping boxes only at the end.
    """
    loosest = Proposals(points_per_side, FITTED["pred_iou_thresh"][0], 0.0, 1.0, 1.0)
    generator = loosest.generator(sam)
    scenes = [_candidates(seed, generator) for seed in tqdm(list(seeds), unit="scene", disable=None)]
    scored = []
    for predicted, stability, overlap in itertools.product(*FITTED.values()):
        tried = Proposals(points_per_side, predicted, stability, box_nms_thresh=overlap)
        results = [candidates.result(tried) for candidates in scenes]
        masks = masks_per_image(results)
        scored.append((mean_best_iou(results) + recall(results) - 10 * (masks > MASKS_BAR), tried))
    return max(scored, key=lambda item: item[0])[1]


def main() -> None:
    """Command line of the measurement."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure.quality", description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, required=True)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--fit", action="store_true", help="fit the thresholds on these scenes, and measure them there")
    parser.add_argument("--threads", type=int, default=1)
    for name, value in vars(Proposals()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments["threads"])
    sam = build_sam("demo_sam", arguments["model"], "cpu")
    seeds = range(arguments["first_seed"], arguments["first_seed"] + arguments["scenes"])
    if arguments["fit"]:
        proposals = fit(seeds, sam, arguments["points_per_side"])
    else:
        proposals = Proposals(**{name: arguments[name] for name in vars(Proposals())})
    print(f"{proposals}\n\n{table(proposal_quality(seeds, sam, proposals))}")


if __name__ == "__main__":
    main()
