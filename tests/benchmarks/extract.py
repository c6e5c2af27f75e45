"""``make bench-extract``: everything mode and embeddings against the code they replace, with the same weights, in turns."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import machine
from tests.benchmarks.extraction import calibrated, embedding, everything, memory, pipeline
from tests.benchmarks.report import table

PACKAGES = ("torch", "torchvision", "segment-anything", "open-clip-torch", "numba", "numpy")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ALPHACLIP = {
    "cpu": ({"input_px": 224, "patch_px": 16, "width": 768, "layers": 12, "heads": 12}, 512, 16),
    "cuda": ({"input_px": 224, "patch_px": 14, "width": 1024, "layers": 24, "heads": 16}, 768, 75),
}
"""B/16 with 16 masks on a CPU, L/14 with 75 on a GPU: options, dim, masks."""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=("small", "vit_b", "vit_l", "vit_h"), help="default: small, on a GPU vit_h")
    parser.add_argument(
        "--side", type=int, help="side, px, of the image (and of what the small encoder sees); 512 or 1024"
    )
    parser.add_argument("--points-per-side", type=int, help="default: 16, on a GPU 32")
    parser.add_argument("--precision", nargs="+", choices=DTYPES, help="default: float32, on a GPU float32 and float16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat: does it run?")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave the 2048 px image out")
    parser.add_argument("--json", type=Path, help="all figures into this file")
    options = parser.parse_args()
    large = options.device == "cuda"
    model = options.model or ("vit_h" if large else "small")
    side = options.side or (1024 if large else 512)
    points = options.points_per_side or (32 if large else 16)
    repeats = options.repeats
    if options.quick:
        side, points, repeats = 128, 4, 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # on both sides
    precisions = options.precision or (["float32", "float16"] if large else ["float32"])
    document: dict[str, Any] = {
        "machine": machine.describe(Path()),
        "versions": machine.versions(list(PACKAGES)),
        "setting": f"{model}, {side} px, {points**2} points, {options.device}, {torch.get_num_threads()} threads",
        "everything": {},
    }
    for precision in precisions:
        say(f"everything mode, {document['setting']}, {precision}")
        document["everything"][precision] = everything.run(
            model, side, points, options.device, DTYPES[precision], repeats, autocast=precision != "float32"
        )
    if options.memory:
        say("memory, an image of 2048 px")
        pixels = 256 if options.quick else 2048
        document["memory"] = {
            which: memory.peak_of(which, model, side, points, options.device, precisions[-1], pixels)
            for which in ("ours", "reference")
        }
    say("masked pooling")
    grid, channels = (16, 64) if options.quick else (64, 1024)
    document["pooling"] = embedding.pooling(50, channels, grid, (480, 640), options.device, repeats)
    say("AlphaCLIP")
    settings, dim, masks = ALPHACLIP[options.device]
    if options.quick:
        settings = settings | {"layers": 2, "width": 64, "heads": 2}
    document["AlphaCLIP"] = embedding.alphaclip(settings, dim, masks, options.device, repeats)
    say("whole images")
    few = options.quick or not large
    document["pipeline"] = pipeline.run(options.device, precisions[-1], 4 if options.quick else 16 if few else 200,
                                        2 if options.quick else 8, 4 if options.quick else points)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report(document))


def say(text: str) -> None:
    """Print progress, separately from the results."""
    print(text, file=sys.stderr, flush=True)


def report(document: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"{document['setting']}; {document['machine']}; {document['versions']}", ""]
    for precision, found in document["everything"].items():
        rows = [
            line(stage, {name: found["stages"][name][stage] for name in ("reference", "ours")})
            for stage in everything.STAGES
        ]
        rows.append(line("end to end", found["seconds"]))
        if (autocast := found["seconds"].get("reference, bf16 autocast")) is not None:
            rows.append(line("end to end, the reference in bf16 autocast", {**found["seconds"], "reference": autocast}))
        rows.append(line("post-processing alone, identical logits", found["post"]))
        lines += [f"**{precision}**", "", table(("ms per image", "reference", "ours", "times"), rows), ""]
        work = ", ".join(f"{name} {value:.0f}{flag(name, value)}" for name, value in found["work"].items())
        lines += [f"Work: {work}. Prompts per batch: {found['points_per_batch']}.", ""]
        lines += [f"Agreement: {found['agreement']}; on identical logits the records are "
                  f"{'identical' if found['post']['identical'] else 'NOT identical'}.", ""]  # fmt: skip
    rows = [line(name, document[name]) for name in ("pooling", "AlphaCLIP")]
    lines += [table(("ms", "reference", "ours", "times"), rows), ""]
    whole, speed = document["pipeline"], document["pipeline"]["images per second"]
    lines.append(
        f"Whole images ({whole['setting']}; {whole['masks per image']:.0f} masks per image): {speed['ours']:.2f} images/s, "
        f"reference {speed['reference']:.2f} ({speed['ours'] / speed['reference']:.1f} times). GPU busy: "
        + ("no GPU." if whole["GPU busy, %"] is None else f"{whole['GPU busy, %']:.0f} %.")
    )
    if "memory" in document:
        peak = document["memory"]
        lines.append(
            f"Peak memory above the model: {peak['ours'] / 1e6:.0f} MB, reference {peak['reference'] / 1e6:.0f} MB "
            f"({peak['ours'] / peak['reference']:.2f} of it)."
        )
    return "\n".join(lines)


def flag(name: str, value: float) -> str:
    """Whether the random weights give as much work as trained ones."""
    low, high = calibrated.BANDS.get(name, (float("-inf"), float("inf")))
    return "" if low <= value <= high else f" (outside {low} to {high})"


def line(name: str, found: dict[str, float]) -> list[str]:
    """One row of milliseconds."""
    reference, ours = found["reference"], found["ours"]
    return [name, f"{1000 * reference:.1f}", f"{1000 * ours:.1f}", ratio(reference, ours)]


def ratio(reference: float, ours: float) -> str:
    """How many times faster."""
    return f"{reference / ours:.1f}" if ours > 0 else ""


if __name__ == "__main__":
    main()
