"""The verb ``import``: masks and vectors of other programs, checked against the index and kept where ``extract`` takes them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from pipeline.config import ROOT, InputError, Settings
from pipeline.errors import DONE, FAILURES
from pipeline.inputs import ShardSource
from pipeline.listed import not_indexed
from pipeline.upstream import commits_of
from stages.encoders import ENCODERS
from stages.fields import Key
from stages.images import ImageFailure
from stages.imported import Foreign, ImportFailure
from stages.imported.archive import MASKS, VECTORS, Archive
from stages.imported.formats import Files, files_at
from stages.imported.gather import Gather, MasksOf, Tally
from stages.imported.pictures import Picture, Pictures
from stages.masks import masks_column
from stages.names import SplitRef, did_you_mean
from stages.progress import progress
from stages.proposers.params import ImportedParams
from stages.weights import IMPORTED, locate
from store.format.schema import OK

SHOWN = 5
"""Names that are printed of each list; --json has all of them."""


def import_command(
    settings: Settings,
    splits: Sequence[SplitRef],
    paths: Sequence[Path],
    name: str,
    of: str | None = None,
    stored_order: bool = False,
) -> tuple[dict[str, Any], int]:
    """Read files, check what they say of the pictures of some splits, and write the archives.

    Args:
        name: of the proposer or encoder that the params will have.
        of: the proposer whose masks vectors without masks belong to.
        stored_order: such vectors have the order of the store; else, of an imported proposer, that of its file.

    Returns:
        What was found, by name (``params``: the entries to add), and the exit code.

    Raises:
        InputError: a split is not indexed, a file cannot be read, there is no such proposer, or nothing can be taken.
    """
    sources = _sources(paths)
    _require_name(settings, name)
    if of is not None and of not in settings.proposers:
        raise InputError(
            f"--of: found {of!r}, expected one of {', '.join(settings.proposers) or 'section proposers of the params'}"
            f"{did_you_mean(of, settings.proposers)}"
        )
    if stored_order and of is None:
        raise InputError("--stored-order is for vectors without masks; expected --of PROPOSER next to it")
    folder = ROOT / settings.run.weights_dir / IMPORTED
    found = _Found(settings, splits, any(path.suffix.lower() == ".jsonl" for path in paths))
    masks_of = None if of is None else _masks_of(settings, found, of, stored_order)
    with contextlib.ExitStack() as stack:
        gather = Gather(found.pictures, folder, stack, masks_of, found.instances)
        entries = _read(sources, gather, len(found.pictures.by_sha256))
        if not gather.taken:
            raise InputError(_nothing(gather.tally, entries, splits, found.pictures))
        archives = gather.finish([source.sha256() for source in sources])
    told: dict[str, Any] = {"files": list(map(str, paths)), "splits": list(map(str, splits)), "entries": entries}
    told |= asdict(gather.tally)
    told["archives"] = {kind: _relative(folder / f"{sha256}.zip") for kind, sha256 in archives.items()}
    told["params"] = _entries(archives, name, of, gather.tally)
    chosen = ("--proposer", name) if MASKS in archives else ("--stage", "embed", "--encoder", name)
    told["extract"] = settings.command("extract", *_words(settings, splits), *chosen)
    return told, FAILURES if gather.tally.failed or gather.tally.ambiguous else DONE


def as_text(told: Mapping[str, Any]) -> str:
    """The result of :func:`import_command` as text: what was found, what was left out and why, and what to add to the params."""
    lines = [
        f"{', '.join(told['files'])}: {told['entries']} pictures; {told['pictures']} of them are in "
        f"{', '.join(told['splits'])}, with {told['masks']} masks and {told['vectors']} vectors"
        + (f" of {told['dim']} numbers" if told["dim"] else "")
    ]
    if told["instance_vectors"]:
        lines.append(f"{told['instance_vectors']} vectors of annotated instances")
    for key, what in _COUNTED.items():
        if told[key]:
            lines.append(f"{told[key]} {what}")
    for key, what in _NAMED.items():
        if names := told[key]:
            shown = [f"{name} ({names[name]})" if isinstance(names, dict) else name for name in [*names][:SHOWN]]
            more = f", and {len(names) - SHOWN} more (--json names all)" if len(names) > SHOWN else ""
            lines.append(f"{len(names)} {what}: {', '.join(shown)}{more}")
    lines += [f"wrote the {kind}: {path}" for kind, path in told["archives"].items()]
    entries = yaml.safe_dump(told["params"], sort_keys=False, width=200).rstrip()
    return "\n".join([*lines, "", "add to the params:", "", entries, "", f"then run: {told['extract']}"])


_COUNTED = {
    "without_a_pixel": "masks without a pixel left out",
    "resized": "pictures had masks of another size, which were resized to the picture (nearest neighbour)",
    "repeated": "entries were repeated in the files, with the same content",
    "regions_left_out": "regions with a vector left out: they are not annotated instances of these splits",
}
"""Key -> what is counted."""
_NAMED = {
    "failed": "pictures failed, and will be failed rows",
    "missing": "pictures of the splits are not in the files, and will be failed rows",
    "ambiguous": "names may mean several pictures of the splits, and were left out; choose splits by --data and --split",
    "unknown": "pictures of the files are not in these splits, and were left out",
}
"""Key -> what has these names."""


def _sources(paths: Sequence[Path]) -> list[Files]:
    try:
        return [files_at(path.expanduser()) for path in paths]
    except ImportFailure as error:
        raise InputError(f"import: {error}") from error


def _require_name(settings: Settings, name: str) -> None:
    """Raise InputError where the params cannot have a proposer and an encoder of this name."""
    try:
        TypeAdapter(Key).validate_python(name)
    except ValidationError as error:
        raise InputError(
            f"--name: found {name!r}, expected letters, digits, '_' and '-', first a letter or a digit"
        ) from error
    proposer = settings.proposers.get(name)
    if proposer is not None and not isinstance(proposer, ImportedParams):
        raise InputError(f"--name: {name} is a proposer of the kind {proposer.kind} in the params; choose another name")
    if name in ENCODERS:
        raise InputError(f"--name: {name} is the name of an encoder; choose another one")


class _Found:
    """The pictures of some splits, where each is, and the annotated instances of each."""

    def __init__(self, settings: Settings, splits: Sequence[SplitRef], with_instances: bool) -> None:
        self.pictures = Pictures()
        self.instances: dict[str, list[str]] = {}
        self.places: dict[str, tuple[SplitRef, int, int]] = {}
        for split in splits:
            commits = commits_of(settings, split, "images")
            if commits is None:
                raise not_indexed(settings, split)
            annotated = with_instances and commits_of(settings, split, "instances") is not None
            for shard in range(len(commits)):
                source = ShardSource(settings, split, shard)
                rows = source.rows("images")
                for position, row in enumerate(rows):
                    if row["status"] == OK:
                        picture = Picture(row["sha256"], (row["height_px"], row["width_px"]), f"{split}: {row['path']}")
                        self.pictures.add(picture, row["image_id"], row["path"])
                        if settings.holder(split.dataset) is None:
                            self.places.setdefault(row["sha256"], (split, shard, position))
                for row, own in zip(rows, source.rows("instances") if annotated else (), strict=False):
                    if row["status"] == own["status"] == OK:
                        known = self.instances.setdefault(row["sha256"], [])
                        known += [counts for counts in own["segmentation"] if counts not in known]


def _read(sources: Sequence[Files], gather: Gather, total: int) -> int:
    """Take every picture of the files; returns how many there are."""
    count = 0
    with progress("import", total, "picture") as advance:

        def each(foreign: Foreign) -> None:
            nonlocal count
            count += 1
            gather.take(foreign)
            advance(1)

        for source in sources:
            try:
                source.read(each)
            except ImportFailure as error:
                raise InputError(
                    f"import: {error}; nothing was written; docs/import.md has the forms that are read"
                ) from error
    return count


def _masks_of(settings: Settings, found: _Found, proposer: str, stored_order: bool) -> MasksOf:
    """The function that gives the masks of a picture that vectors without masks belong to."""
    params = settings.proposers[proposer]
    if isinstance(params, ImportedParams) and not stored_order:
        (name,) = params.weights
        archive = Archive(locate(name, ROOT / settings.run.weights_dir, settings.weights_lock), MASKS)

        def of_file(picture: Picture) -> list[str | None]:
            if trouble := archive.trouble(picture.sha256):
                raise ImageFailure(trouble)
            records = archive.records(picture.sha256)
            return [None if each is None else each["segmentation"] for each in records]

        return of_file

    @lru_cache(maxsize=8)
    def rows(split: SplitRef, shard: int) -> list[dict[str, Any]]:
        return ShardSource(settings, split, shard).rows(masks_column(proposer))

    def of_store(picture: Picture) -> list[str | None]:
        if picture.sha256 not in found.places:
            raise ImageFailure("its masks are in the data set that holds the picture; name that one with --data, too")
        split, shard, position = found.places[picture.sha256]
        row = rows(split, shard)[position]
        if row["status"] != OK:
            raise ImageFailure(f"{proposer} has no masks of it: {row['error']}")
        return list(row["segmentation"])

    return of_store


def _nothing(tally: Tally, entries: int, splits: Sequence[SplitRef], pictures: Pictures) -> str:
    """Why nothing can be taken, with an example."""
    of = f"of {entries} pictures in the files, none could be matched to {', '.join(map(str, splits))}"
    if tally.failed:
        name, reason = next(iter(tally.failed.items()))
        why = f"{len(tally.failed)} failed, such as {name}: {reason}"
    elif tally.ambiguous:
        why = f"{tally.ambiguous[0]!r} may mean several pictures; choose splits by --data and --split"
    elif tally.unknown:
        own = next((picture.name for picture in pictures.by_sha256.values()), None)
        why = f"{tally.unknown[0]!r} is not in these splits" + (f", which have pictures such as {own}" if own else "")
    else:
        why = "they are empty"
    return f"import: {of}: {why}; nothing was written"


def _entries(archives: Mapping[str, str], name: str, of: str | None, tally: Tally) -> dict[str, dict[str, Any]]:
    """The entries that the params need."""
    found: dict[str, dict[str, Any]] = {}
    if MASKS in archives:
        found["proposers"] = {name: {"kind": "imported", "sha256": archives[MASKS]}}
    if VECTORS in archives:
        entry = {"sha256": archives[VECTORS], "dim": tally.dim, "proposers": [name if MASKS in archives else of]}
        found["embed"] = {"imported": {name: {**entry, "instances": True} if tally.instance_vectors else entry}}
    return found


def _words(settings: Settings, splits: Sequence[SplitRef]) -> Iterator[str]:
    """The options that select these splits: the pictures of others are not in the files, and would be failed rows."""
    data = dict.fromkeys(split.dataset for split in splits)
    among = [split for split in settings.splits if split.dataset in data]
    if len(data) < len(settings.data):
        yield from ("--data", ",".join(data))
    if len(splits) < len(among):
        yield from ("--split", splits[0].split)


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
