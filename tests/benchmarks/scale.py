"""``make bench-scale``: what the commands cost on a split of 100 000 small images, and how fast ``index`` reads large ones.

With ``--borrowers``: what they cost on as many pictures as COCO has, 20 x 20 px each, with five data sets that borrow them.

Every command is a process of its own, with the files in the page cache. The data set is made in a temporary folder. Masks and
embeddings are stand-ins, one for each image, that go through the real pipeline into the store: no model is run here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from PIL import Image

from tests.benchmarks import machine, shared_pictures, stand_ins
from tests.benchmarks.report import table
from tests.benchmarks.stand_ins import SIDE_PX

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
SPLIT = "train"
LARGE = (640, 480)
COCO_TRAIN_2017 = 118_287
SHARD_IMAGES = 256


def main() -> None:
    """Make the data sets, run the commands, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help="small images (default 100 000; with --borrowers 118 287)")
    parser.add_argument(
        "--borrowers", action="store_true", help="measure five data sets that borrow their pictures instead"
    )
    parser.add_argument("--large-images", type=int, default=2_000, help="images of 640 x 480 px (default 2 000)")
    parser.add_argument("--folder", type=Path, help="work here, and keep it; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="all figures into this file")
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--split", default=f"bench/{SPLIT}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill)
    elif options.read:
        print(json.dumps(read(options.read, options.split)))
    else:
        with tempfile.TemporaryDirectory(prefix="bench-scale-") as temporary:
            folder = options.folder or Path(temporary)
            if options.borrowers:
                document = measure_borrowers(folder, options.images or COCO_TRAIN_2017)
            else:
                document = measure(folder, options.images or 100_000, options.large_images)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n")
        print(report(document))


def measure(folder: Path, images: int, large_images: int) -> dict[str, Any]:
    """Seconds and memory of each command, and images per second of ``index`` on one core and on two."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    params = apart(make_data, folder / "small", images, (SIDE_PX, SIDE_PX))
    cli = (str(ROOT / "cli.py"), "--params", str(params))
    ours = ("-m", "tests.benchmarks.scale")
    commands = {
        "index, for the first time": (*cli, "index"),
        "index again": (*cli, "index"),
        "info, with only the index computed": (*cli, "info"),
        "extract --dry-run, with only the index computed": (*cli, "extract", "--dry-run"),
        "(stand-ins for masks and embeddings)": (*ours, "--fill", str(params)),
        "normalize": (*cli, "normalize"),
        "info": (*cli, "info"),
        "extract --dry-run": (*cli, "extract", "--dry-run"),
        "extract, with nothing to do": (*cli, "extract"),
        "verify --complete": (*cli, "verify", "--complete"),
        "open_split and a first batch": (*ours, "--read", str(params)),
    }
    rows, said = run_all(commands)
    reading = json.loads(said)
    rates = {}
    if large_images:
        for count in range(1, len(cores) + 1):
            params = apart(make_data, folder / f"large-{count}", large_images, LARGE)
            found, _ = timed((str(ROOT / "cli.py"), "--params", str(params), "index"), cores[:count])
            rates[count] = large_images / found["seconds"]
    return {
        **facts(folder),
        "images": images,
        "large_images": large_images,
        "commands": rows,
        "reading": reading,
        "rates": rates,
    }


def measure_borrowers(folder: Path, pictures: int) -> dict[str, Any]:
    """The same of a data set of pictures and of five that borrow them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    params = folder / "params.yaml"
    if not params.exists():
        write_params(folder, apart(shared_pictures.write, folder / "data", pictures))
    cli = (str(ROOT / "cli.py"), "--params", str(params))
    ours = ("-m", "tests.benchmarks.scale")
    first = {
        f"index of {name}, for the first time": (*cli, "index", "--data", name)
        for name in ("coco", *shared_pictures.BORROWERS)
    }
    commands = {
        **first,
        "index again, of all": (*cli, "index"),
        "index again, of lvis": (*cli, "index", "--data", "lvis"),
        "info, with only the index computed": (*cli, "info"),
        "extract --dry-run, with only the index computed": (*cli, "extract", "--dry-run"),
        "leaks": (*cli, "leaks"),
        "(stand-ins for masks and embeddings)": (*ours, "--fill", str(params)),
        "info": (*cli, "info"),
        "extract --dry-run": (*cli, "extract", "--dry-run"),
        "verify --complete": (*cli, "verify", "--complete"),
        "open_split of lvis and a first batch": (*ours, "--read", str(params), "--split", "lvis/train"),
    }
    rows, said = run_all(commands)
    return {**facts(folder), "images": pictures, "commands": rows, "reading": json.loads(said), "rates": {}}


def facts(folder: Path) -> dict[str, Any]:
    """What the figures depend on."""
    return {"machine": machine.describe(folder), "versions": machine.versions(["numpy", "pyarrow", "pillow"])}


def run_all(commands: Mapping[str, Sequence[str]]) -> tuple[dict[str, dict[str, float]], str]:
    """:func:`timed` of each command, and what the last one printed."""
    rows, said = {}, ""
    for name, command in commands.items():
        rows[name], said = timed(command)
        print(f"{name}: {rows[name]}", file=sys.stderr)
    return rows, said


def timed(arguments: Sequence[str], cores: Sequence[int] = ()) -> tuple[dict[str, float], str]:
    """Run Python with these arguments: seconds, those of them at work on a core, peak memory; and what it printed."""
    pin = partial(os.sched_setaffinity, 0, cores) if cores else None
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=pin) as process:
        assert process.stdout is not None
        said = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}\n{said}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory_mb": usage.ru_maxrss * 1024 / 1e6}, said


def apart(make: Callable[..., T], *given: Any) -> T:
    """What a function returns, run in a process of its own: a command begins with the peak memory of what starts it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(make, *given).result()


def make_data(folder: Path, count: int, size_px: tuple[int, int]) -> Path:
    """A data set of ``count`` JPEGs with one question each, and its params file; what is there already is kept."""
    split = folder / "data" / SPLIT
    params = folder / "params.yaml"
    if not params.exists():
        split.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(partial(make_image, split, size_px), range(count)))
        data = {"format": "reasonseg", "images": "bench", "root": str(folder / "data"), "splits": [SPLIT]}
        write_params(folder, {"bench": data}, {"bench": {"train": [f"bench/{SPLIT}"]}})
    return params


def write_params(folder: Path, data: Mapping[str, Any], means: Mapping[str, Any] | None = None) -> None:
    """``params.yaml`` for these data sets, with the models of the demo."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"store": str(folder / "store"), "data": dict(data), "shard_images": SHARD_IMAGES}
    values |= {"proposers": {"sam": {"model": "demo_sam"}}, "means": dict(means or {})}
    values["train"] |= {"train": [f"{list(data)[-1]}/{SPLIT}"], "proposer": "sam"}
    values["embed"] |= {"mask_encoders": ["demo_sam"], "image_encoders": ["demo_clip"], "sam_features": []}
    values["run"] |= {f"{name}_dir": str(folder / name) for name in ("report", "train", "cache")}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def make_image(split: Path, size_px: tuple[int, int], number: int) -> None:
    """``<number>.jpg`` of seeded noise, coarse where it is large, and ``<number>.json`` with a rectangle as its answer."""
    width, height = size_px
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (min(height, 60), min(width, 80), 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize(size_px).save(buffer, "JPEG", quality=90)
    (split / f"{number:06d}.jpg").write_bytes(buffer.getvalue())
    x, y = width // 4, height // 4
    shape = {"label": "target", "points": [[x, y], [3 * x, y], [3 * x, 3 * y], [x, 3 * y]]}
    answer = {"shapes": [shape], "text": [f"what is number {number}?"], "is_sentence": True}
    (split / f"{number:06d}.json").write_text(json.dumps(answer))


def fill(params: Path) -> None:
    """Bring masks, embeddings and matches up to date with stand-ins: one for each image or target, computed by no model."""
    from pipeline.compute import compute_stage
    from pipeline.executors import LocalExecutor
    from pipeline.params_file import load_settings

    settings = load_settings(params)
    with stand_ins.installed():
        for split in settings.splits:
            for stage in ("masks", "embed", "match"):
                compute_stage(settings, stage, split, LocalExecutor())


def read(params: Path, name: str) -> dict[str, float]:
    """Seconds to import the store, to open the split, and from there to a first shuffled batch of 32."""
    values = yaml.safe_load(params.read_text())
    at = [time.perf_counter()]
    from store import open_split

    at.append(time.perf_counter())
    split = open_split(values["store"], *name.split("/"))
    at.append(time.perf_counter())
    encoder = f"mask_embeddings/{values['embed']['mask_encoders'][0]}"
    next(iter(split.stream([encoder, "targets.texts"], 32, shuffle=True)))
    at.append(time.perf_counter())
    return dict(zip(("import", "open", "first_batch"), np.diff(at).tolist(), strict=True))


def report(document: dict[str, Any]) -> str:
    """The tables, with what they depend on."""
    facts = ", ".join(f"{key} {value}" for part in ("machine", "versions") for key, value in document[part].items())
    rows = [
        [name, f"{found['seconds']:.1f}", f"{found['cpu_seconds']:.1f}", f"{found['memory_mb']:.0f}"]
        for name, found in document["commands"].items()
    ]
    reading = document["reading"]
    parts = [
        f"{facts}. {document['images']} images, {SHARD_IMAGES} in a shard.",
        table(("", "seconds", "at work on a core, s", "memory, MB"), rows),
        f"open_split: {reading['open']:.2f} s; from there to the first shuffled batch of 32: {reading['first_batch']:.2f} s; "
        f"the import before: {reading['import']:.2f} s.",
    ]
    rates = document["rates"]
    if rates:
        lines = [[str(count), f"{rate:.0f}", f"{rate / rates[1]:.2f}"] for count, rate in rates.items()]
        parts.append(table(("cores", f"images/s of 640 x 480 px ({document['large_images']})", "of one core"), lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
