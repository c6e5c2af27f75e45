"""The verb ``demo``: the generated data set and, on request, the tiny models."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import ROOT, InputError

DEMO_ROOT = ROOT / "data" / "demo"
MIXTURE = Path("data/mixture")
ASKED = Path("data/questions_demo")


def make_demo_data() -> str:
    """Generate the data set; return what to print.

    Raises:
        InputError: the folder holds something other than a demo data set.
    """
    from demo.data.dataset import REWORDED, DemoError, make_demo

    try:
        kept = make_demo(DEMO_ROOT)
    except DemoError as error:
        raise InputError(f"demo: {error}") from error
    images = {split.name: len(list(split.glob("*.jpg"))) for split in sorted(DEMO_ROOT.iterdir()) if split.is_dir()}
    counts = ", ".join(f"{count} {split}" for split, count in images.items() if count)
    place = DEMO_ROOT.relative_to(ROOT)
    said = f"demo data set: {place} ({counts} images); the test questions in other words: {place / REWORDED}"
    if kept:
        some = ", ".join(kept[:3]) + (f" and {len(kept) - 3} more" if len(kept) > 3 else "")
        said += f"\nkept, as the demo did not write it or it has changed since: {some}; remove it to restore the demo"
    return said


def make_demo_mixture() -> str:
    """Generate scenes in the official formats of the mixture's sets; return what to print.

    Raises:
        InputError: the folder holds something else.
    """
    from demo.data.dataset import DemoError
    from demo.data.mixture import make_mixture

    try:
        kept = make_mixture(ROOT / MIXTURE)
    except DemoError as error:
        raise InputError(f"demo: {error}") from error
    stays = f"\nkept, as the demo did not write it or it has changed since: {', '.join(kept[:3])}" if kept else ""
    return f"demo mixture: {MIXTURE}; params/mixture_demo.yaml names its data sets{stays}"


def make_demo_asked() -> str:
    """Generate scenes to make questions about; return what to print.

    Raises:
        InputError: the folder holds something else.
    """
    from demo.data.asked import make_asked
    from demo.data.dataset import DemoError

    try:
        kept = make_asked(ROOT / ASKED / "scenes")
    except DemoError as error:
        raise InputError(f"demo: {error}") from error
    stays = f"\nkept, as the demo did not write it or it has changed since: {', '.join(kept[:3])}" if kept else ""
    return f"demo scenes: {ASKED}/scenes; params/questions_demo.yaml makes questions about them{stays}"


def make_demo_scenes(count: int, first_seed: int, root: Path) -> str:
    """Generate a split ``scenes`` of further scenes, for an evaluation on more than the test split; return what to print.

    Raises:
        InputError: there is one already.
    """
    from demo.data.dataset import DemoError, make_scenes

    try:
        make_scenes(root, "scenes", range(first_seed, first_seed + count))
    except DemoError as error:
        raise InputError(f"demo: {error}") from error
    return f"{root}/scenes: {count} images; docs/results.md says how systems are evaluated on them"


def train_demo_models() -> str:
    """Train the tiny models from nothing, write them into demo/models and their digests into weights.lock."""
    import subprocess
    import sys

    for module in (
        "demo.models.train_sam",
        "demo.models.train_encoders",
        "demo.models.train_text",
        "demo.models.train_llava",
    ):
        subprocess.run([sys.executable, "-m", module], cwd=ROOT, check=True)
    return "demo models: demo/models, digests in weights.lock; run: make repro"
