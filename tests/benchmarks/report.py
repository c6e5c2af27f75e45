"""The figures as Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.benchmarks.data import PROFILES
from tests.benchmarks.entries import CEILING, ENTRIES, OURS, competitors

TITLES = {
    "shuffled": "Whole records, shuffled",
    "sequential": "Whole records, in order",
    "embeddings_text": "Only mask embeddings and text, shuffled",
    "single": "One whole record at random",
}
HEADER = ("", "records/s (min to max)", "GB/s", "of the ceiling", "p99, ms", "first batch, ms", "memory, MB")


def table(header: tuple[str, ...], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def of(document: dict[str, Any], entry: str, profile: str, condition: str, key: str) -> list[float]:
    """All measurements of a cell."""
    wanted = {"entry": entry, "profile": profile, "condition": condition}
    return [row[key] for row in document["results"] if wanted.items() <= row.items() and key in row]


def middle(
    document: dict[str, Any], entry: str, profile: str, condition: str = "warm", key: str = "records_s"
) -> float:
    """The median of a cell; 0 for an empty cell."""
    return median(of(document, entry, profile, condition, key) or [0.0])


def read_report(document: dict[str, Any]) -> str:
    """Everything ``bench-read`` found."""
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    parts = [f"Machine: {machine}. Versions: {versions}. {document['records']} records."]
    for condition in ("warm", "cold"):
        for profile in PROFILES:
            if rows := profile_rows(document, profile, condition):
                parts += [f"### {TITLES[profile]}, {condition} page cache", table(HEADER, rows)]
    left = [row["left_resident"] for row in document["results"] if "left_resident" in row]
    if left:
        parts.append(
            f"Cold: at most {max(left):.1%} of the pages were still in memory (mincore); the host may cache, too."
        )
    if document["faults"]:
        parts += ["### Faults", fault_table(document["faults"])]
    parts += [f"Not measured: {name}: {why}" for name, why in document["failed"].items()]
    parts += ["### Goals", table(("goal", "found", "reached"), goals(document))]
    return "\n\n".join(parts)


def profile_rows(document: dict[str, Any], profile: str, condition: str) -> list[list[str]]:
    """One line per entry, fastest first."""
    ceiling = middle(document, CEILING, profile, condition)
    names = [name for name in ENTRIES if of(document, name, profile, condition, "records_s")]
    rows = []
    for name in sorted(names, key=lambda name: -middle(document, name, profile, condition)):
        rates = of(document, name, profile, condition, "records_s")
        rate = f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})".replace(",", " ")
        share = f"{median(rates) / ceiling:.0%}" if ceiling else ""
        others = [
            middle(document, name, profile, condition, key)
            for key in ("bytes_s", "p99_ms", "first_batch_ms", "memory_mb")
        ]
        numbers = [f"{others[0] / 1e9:.2f}", share, f"{others[1]:.2f}", f"{others[2]:.0f}", f"{others[3]:.0f}"]
        rows.append([f"**{name}**" if ENTRIES[name].module == "ours" else name, rate, *numbers])
    return rows


def fault_table(found: dict[str, dict[str, str]]) -> str:
    """One line per entry and one column per fault; the first column is the count."""
    names = list(next(iter(found.values())))
    rows = []
    for entry, verdicts in found.items():
        counts = [sum(verdict == kind for verdict in verdicts.values()) for kind in ("detected", "harmless", "silent")]
        rows.append([entry, "{} / {} / {}".format(*counts), *(verdicts[name] for name in names)])
    return table(("", "detected / harmless / silent", *names), rows)


def goals(document: dict[str, Any]) -> list[list[str]]:
    """The goals; those with verification on are compared with check="always"."""
    ours = {profile: middle(document, OURS, profile) for profile in PROFILES}
    never = middle(document, "this store, never", "shuffled")
    best = {
        profile: max(((middle(document, name, profile), name) for name in competitors()), default=(0.0, "nobody"))
        for profile in PROFILES
    }
    zarr = max(middle(document, name, "shuffled") for name in ENTRIES if name.startswith("zarr-python"))
    ceiling = middle(document, CEILING, "shuffled")
    first = middle(document, OURS, "shuffled", key="first_batch_ms")
    memory = document["memory_mb"]
    growth = memory[-1] / memory[1] - 1 if len(memory) > 2 else float("nan")

    def line(goal: str, value: float, bar: float, unit: str, against: str = "") -> list[str]:
        return [goal, f"{value:.2f}{unit}{against}", "yes" if value >= bar else "no"]

    def ratio(value: float, base: float) -> float:
        return value / base if base else 0.0

    shuffled, narrow = best["shuffled"], best["embeddings_text"]
    return [
        line("shuffled, 1.5x the best peer", ratio(ours["shuffled"], shuffled[0]), 1.5, "x", f" ({shuffled[1]})"),
        line("shuffled, 10x zarr-python", ratio(ours["shuffled"], zarr), 10, "x"),
        line("shuffled at least 0.95x in order", ratio(ours["shuffled"], ours["sequential"]), 0.95, "x"),
        line("50 % of the memmap-copy ceiling (aim 60 %)", 100 * ratio(ours["shuffled"], ceiling), 50, " %"),
        line("90 % of it with verification off", 100 * ratio(never, ceiling), 90, " %"),
        line(
            "embeddings + text, 3x the best peer", ratio(ours["embeddings_text"], narrow[0]), 3, "x", f" ({narrow[1]})"
        ),
        line("embeddings + text, aim 80 000 records/s", ours["embeddings_text"], 80_000, " records/s"),
        ["first batch under 250 ms after imports", f"{first:.0f} ms", "yes" if 0 < first < 250 else "no"],
        ["memory flat over 10 epochs", f"{growth:+.1%} from epoch 2 to 10", "yes" if growth < 0.01 else "no"],
    ]
