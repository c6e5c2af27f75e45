"""A store for the simulation and its checks: an index of small pictures, one in each shard, and no model's output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.compute import compute_stages
from pipeline.config import Settings
from pipeline.executors import LocalExecutor
from pipeline.graph import EXTRACTED
from pipeline.params_file import load_settings
from pipeline.scale.amounts import Workload, made
from pipeline.scale.predict import publish_seconds
from pipeline.scale.profiles import Profiles
from pipeline.scale.seconds import parts
from store.addresses import is_remote
from tests.benchmarks import scale
from tests.benchmarks.stand_ins import SIDE_PX
from tests.benchmarks.workers.simulate import Costs

COCO = (118_287, 640, 480)
"""Images of train2017, and about their size."""
SPREAD = 0.05
"""Of a shard of 32 images: the number of masks differs by a third of its mean between images."""
HOP_S = 0.002
CHECKS = 3
"""Requests that look for a commit."""
COLUMNS = 2 * 2
"""Looks at the columns of this store: each of the two is looked at twice."""


def make_store(folder: Path, shards: int) -> Path:
    """Pictures and a params file, of which the index is computed."""
    pictures = folder / "data" / "train"
    pictures.mkdir(parents=True)
    for number in range(shards):
        scale.make_image(pictures, (SIDE_PX, SIDE_PX), number)
    values: dict[str, Any] = {
        "store": str(folder / "store"),
        "data": {"bench": {"format": "images", "images": "bench", "root": str(folder / "data"), "splits": ["train"]}},
        "shard_images": 1,
        "proposers": {"sam": {"model": "demo_sam"}},
        "embed": {"mask_encoders": ["demo_sam"], "image_encoders": [], "max_masks": 16},
        "run": {"device": "cpu"} | {f"{name}_dir": str(folder / name) for name in ("report", "train", "cache")},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    settings = load_settings(folder / "params.yaml")
    compute_stages(settings, ("index",), settings.splits, LocalExecutor(), replace=True)
    return folder / "params.yaml"


def costs_on(settings: Settings, profiles: Profiles, card: str) -> Costs:
    """What a shard of COCO's pictures costs with some parameters on a card, by the profiles that ``extract --plan`` reads."""
    images, width, height = COCO
    size, host, objects = settings.shard_images, profiles.host, profiles.objects
    masks = profiles.masks.per_image.value
    work = Workload(next(iter(settings.data)), images, height, width, masks, 0, 0, -(-images // size))
    asking = objects.request_ms.value / 1e3 if is_remote(settings.store_path) else 0.0
    looking = host.plan_ms.value / 1e3 + size * host.plan_us_per_image.value / 1e6 + objects.looks.value * asking
    stages = [spec.stage for spec in made(settings, work)]
    seconds = dict.fromkeys(EXTRACTED, 0.0)
    for part in parts(settings, profiles, card, work):
        seconds[part.stage] += part.seconds * size
    return Costs(
        shard=seconds,
        publish={stage: publish_seconds(settings, profiles, work, stage) for stage in EXTRACTED},
        spread=SPREAD,
        images=size,
        load=host.load_s.value,
        plan=looking * len(stages) / COLUMNS,
        task=host.task_ms.value / 1e3,
        check={stage: stages.count(stage) * (host.plan_ms.value / 1e3 + CHECKS * asking) for stage in EXTRACTED},
        hop=HOP_S,
    )
