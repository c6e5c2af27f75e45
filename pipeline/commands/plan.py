"""``extract --plan``: what an extraction takes on cards that need not be here, of images that need not be here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config import InputError, Settings
from pipeline.scale.amounts import Workload
from pipeline.scale.evidence import seconds_on, workload
from pipeline.scale.limits import limits
from pipeline.scale.predict import Prediction, predict
from pipeline.scale.profiles import Profiles, profiles
from stages.datasets import FORMATS
from stages.names import SplitRef

_DRIVER = Path("/proc/driver/nvidia/gpus")
"""Linux: a folder for each card, whose file ``information`` has its name."""
_SIZE = (640, 480)
"""Width and height, px, where none are given."""


def plan_command(settings: Settings, splits: Sequence[SplitRef], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the extraction of the splits takes, or of as many images as are asked for.

    Args:
        asked: option of the command line -> its value, or None.

    Raises:
        InputError: an option is wrong or missing, or a split is not indexed.
    """
    known = profiles()
    card = asked["--gpu"] or _own_card(known)
    title = known.card(card).title
    if asked["--images"] is not None:
        work = _wanted(settings, known, splits, asked)
        return _values(settings, known, card, predict(settings, known, card, settings.run.workers, work))
    if wrong := [name for name in ("--size", "--regions", "--questions") if asked[name] is not None]:
        raise InputError(
            f"{wrong[0]}: found no --images; without it, the number and the size of the images come from the index"
        )
    work = [workload(settings, split, _masks(known, asked), _SIZE) for split in splits]
    measured = partial(seconds_on, settings, splits, titles=() if card == "cpu" else (title,))
    return _values(settings, known, card, predict(settings, known, card, settings.run.workers, work, measured))


def _wanted(
    settings: Settings, known: Profiles, splits: Sequence[SplitRef], asked: Mapping[str, Any]
) -> list[Workload]:
    """The images that ``--images`` and ``--size`` name, each pair a workload."""
    counts, sizes = asked["--images"], [_size(text) for text in asked["--size"] or (None,)]
    if len(sizes) not in (1, len(counts)):
        raise InputError(f"--size: found {len(sizes)}, expected one for each of {len(counts)} --images, or one for all")
    regions, questions = asked["--regions"] or 0.0, asked["--questions"] or 0.0
    dataset, masks = _dataset(settings, splits, bool(regions or questions)), _masks(known, asked)
    return [
        Workload(dataset, count, height, width, masks, regions, questions, -(-count // settings.shard_images))
        for count, (width, height) in zip(counts, sizes * (len(counts) // len(sizes)), strict=True)
    ]


def _masks(known: Profiles, asked: Mapping[str, Any]) -> float:
    return known.masks.per_image.value if asked["--masks"] is None else float(asked["--masks"])


def _values(settings: Settings, known: Profiles, card: str, found: Prediction) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "gpu": card,
        "card": found.card.title,
        "workers": found.workers,
        "images": found.images,
        "data": [vars(each) for each in found.work],
        "shard_images": settings.shard_images,
        "hours": found.seconds / 3600,
        "gpu_hours": found.seconds * found.workers / 3600,
        "images_per_second": found.images / found.seconds if found.seconds else 0.0,
        "parts": [
            {
                "stage": part.stage,
                "part": part.name,
                "hours": part.seconds / 3600,
                "kind": part.kind,
                "source": part.source,
            }
            for part in found.parts
        ],
        "kinds": sorted({part.kind for part in found.parts if part.seconds > 0.01 * found.busy}),
        "cores_per_worker": found.cores,
        "columns": [
            {
                "column": each.name,
                "stage": each.stage,
                "bytes": round(each.bytes),
                "bytes_per_image": each.bytes / each.images,
            }
            for each in found.columns
        ],
        "bytes": round(found.bytes),
        "requests": {
            "writes": round(found.writes),
            "reads": round(found.reads),
            "reads_per_epoch": round(found.reads_per_epoch),
        },
        "usd": {"work": found.usd_work, "storage_per_month": found.usd_month, "requests": found.usd_requests},
        "breaks": [vars(each) for each in limits(settings, known, found)],
    }


def _dataset(settings: Settings, splits: Sequence[SplitRef], annotated: bool) -> str:
    """The data set whose columns are meant: the first that holds its own images and, if ``annotated``, annotations."""
    for split in splits:
        data = settings.data[split.dataset]
        if settings.holder(split.dataset) is None and (FORMATS[data.format].annotated or not annotated):
            return split.dataset
    raise InputError(
        "--images: none of these data sets holds its images" + (" and their annotations" if annotated else "")
    )


def _size(text: str | None) -> tuple[int, int]:
    """Width and height, px."""
    match = re.fullmatch(r"(\d+)x(\d+)", text or "x".join(map(str, _SIZE)))
    if match is None or "0" in match.groups():
        raise InputError(f"--size: found {text!r}, expected width and height in px, such as 640x480")
    return int(match[1]), int(match[2])


def _own_card(known: Profiles) -> str:
    """The card of this machine, as its driver names it."""
    found = []
    for path in sorted(_DRIVER.glob("*/information")):
        found += re.findall(r"^Model:\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
    for name, card in known.cards.items():
        if any(model.startswith(card.title) for model in found):
            return name
    there = f"this machine has {found[0]}, about which nothing is known" if found else "this machine has no NVIDIA card"
    raise InputError(f"--plan: {there}; expected --gpu with one of {', '.join(known.cards)}")


def as_text(found: Mapping[str, Any]) -> str:
    """The plan as text for a person."""
    work = found["data"]
    of = ", ".join(_of(each) for each in work[:4]) + (f" and {len(work) - 4} more" if len(work) > 4 else "")
    lines = [
        f"{of}; {found['shard_images']} in a shard",
        f"{found['workers']} x {found['card']}: {_hours(found['hours'])} ({found['images_per_second']:.1f} images/s, "
        f"{found['gpu_hours']:.1f} GPU hours, {found['cores_per_worker']:.1f} cores per worker to decode images); "
        f"{' and '.join(found['kinds'])}",
        "",
        f"{'stage':6} {'':40} {'GPU hours':>10}  how the figure was found",
    ]
    for part in found["parts"]:
        lines.append(f"{part['stage']:6} {part['part']:40} {part['hours']:10.2f}  {part['kind']}: {part['source']}")
    width = max(len(each["column"]) for each in found["columns"])
    lines += ["", f"{'column':{width}} {'kB per image':>12} {'GB':>10}  stage"]
    every = {
        "column": "in all",
        "bytes": found["bytes"],
        "bytes_per_image": found["bytes"] / found["images"],
        "stage": "",
    }
    for each in [*found["columns"], every]:
        sizes = f"{each['bytes_per_image'] / 1e3:12.2f} {each['bytes'] / 1e9:10.2f}"
        lines.append(f"{each['column']:{width}} {sizes}  {each['stage']}".rstrip())
    requests, usd = found["requests"], found["usd"]
    lines += [
        "",
        f"in a bucket: {_count(requests['writes'])} requests that write or list, {_count(requests['reads'])} that read; "
        f"an epoch that reads every array of every image: {_count(requests['reads_per_epoch'])}",
        f"USD: work {_usd(usd['work'], 'usd_per_gpu_hour')}, "
        f"storage per month {_usd(usd['storage_per_month'], 'usd_per_gb_month')}, "
        f"requests {_usd(usd['requests'], 'usd_per_1000_writes, usd_per_1000_reads')}",
        "",
        "what breaks first:" + ("" if found["breaks"] else " nothing"),
    ]
    lines += [
        f"  {each['what']} ({each['times']:.1f} times what is acceptable): {each['advice']}" for each in found["breaks"]
    ]
    return "\n".join(lines)


def _of(work: Mapping[str, Any]) -> str:
    return (
        f"{work['images']} images of {work['width_px']:.0f} x {work['height_px']:.0f} px with {work['masks']:.0f} masks"
        + (f", {work['instances']:.1f} regions" if work["instances"] else "")
        + (f", {work['questions']:.1f} questions" if work["questions"] else "")
    )


def _count(number: int) -> str:
    return f"{number:_}".replace("_", " ")


def _hours(hours: float) -> str:
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _usd(value: float | None, price: str) -> str:
    return f"unknown (prices.{price})" if value is None else f"{value:.2f}"
