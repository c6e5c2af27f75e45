"""The verb ``data``: what a data set is, where it comes from, what of it is on this disk, and how its counts compare."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.counted import count_split
from pipeline.errors import DONE, FAILURES
from stages.datasets import FORMATS, expected
from stages.datasets.base import Expected
from stages.datasets.catalog import PublishedSet, counted_as, recognise
from stages.datasets.params import DataParams, ImagesOptions, ReasonSegHubOptions
from stages.datasets.published import Counts, Published, as_words, published, verdict
from stages.datasets.unpack import unpack
from stages.names import SplitRef, did_you_mean
from store.storage.listing import is_folder

NOT_KNOWN = "not known"
_FACTS = ("licence", "pictures", "pictures_licence", "url", "get", "note")


def data_command(settings: Settings, name: str | None = None) -> dict[str, Any]:
    """What is known of a data set of the params, or of all of them, by name. Reads files and the store, and changes nothing.

    Raises:
        InputError: there is no such data set.
    """
    if name is not None:
        _require_known(settings, name)
    return {each: _describe(settings, each) for each in (settings.data if name is None else [name])}


def unpack_command(settings: Settings, name: str | None, folder: Path) -> tuple[dict[str, Any], int]:
    """Write the pictures in the Parquet files of a data set into a folder; what was done by split, and the exit code.

    Raises:
        InputError: no data set is named, or its files hold no pictures.
    """
    if name is None:
        raise InputError(
            "data: found --unpack without a name, expected a data set: python cli.py data NAME --unpack FOLDER"
        )
    _require_known(settings, name)
    data = settings.data[name]
    if not isinstance(data, ReasonSegHubOptions):
        raise InputError(
            f"data: --unpack is for the format reasonseg_hub, whose files hold the pictures; {name} is {data.format}"
        )
    if (ROOT / data.roots[0]).resolve() == folder.resolve():
        raise InputError(f"data: --unpack {folder} is the folder of {name} itself; name another one")
    for line in _terms(data, name):
        print(line, file=sys.stderr)
    done = {
        split: unpack(settings.folders(name).folders[0], split, data, folder, data.max_pixels) for split in data.splits
    }
    failed = any(each.problems for each in done.values())
    return {split: asdict(each) for split, each in done.items()}, FAILURES if failed else DONE


def unpacked_text(settings: Settings, name: str, folder: Path, found: dict[str, Any]) -> str:
    """What :func:`unpack_command` did, for a person, and the entry of the params for the pictures."""
    data, lines = settings.data[name], []
    for split, each in found.items():
        there = f", {each['there']} were there already" if each["there"] else ""
        lines.append(f"{name}/{split}: {each['written']} pictures written to {folder / split}{there}")
        lines += [f"  not written: {problem}" for problem in each["problems"]]
    splits = ", ".join(data.splits)
    lines.append(f"to use them, add this entry to section data of the params, and name it as `images` of {name}:")
    lines.append(f"  {name}_pictures: {{format: images, images: {name}_pictures, root: {folder}, splits: [{splits}]}}")
    return "\n".join(lines)


def _terms(data: DataParams, name: str) -> list[str]:
    """The licence of a published set's pictures, said before they are written."""
    known = recognise(data, name)
    return [f"licence of the pictures: {known.set.pictures_licence or NOT_KNOWN}", known.set.note] if known else []


def _require_known(settings: Settings, name: str) -> None:
    """Raise InputError, with what is like it, where the params have no such data set."""
    if name not in settings.data:
        raise InputError(
            f"data: found {name!r}, expected one of {', '.join(settings.data)} (section data of the params)"
            f"{did_you_mean(name, settings.data)}"
        )


def _describe(settings: Settings, name: str) -> dict[str, Any]:
    data, holder = settings.data[name], settings.holder(name)
    recognised = recognise(data, name)
    defaults = FORMATS[data.format].options().model_dump(mode="json")
    found: dict[str, Any] = {
        "format": data.format,
        "options": {option: data.model_dump(mode="json")[option] for option in defaults},
        "root": list(data.roots),
        "borrows_from": None,
        "published_set": None if recognised is None else recognised.set.title,
        "recognised_by": None if recognised is None else recognised.by,
        **{fact: getattr(recognised.set, fact) if recognised else "" for fact in _FACTS},
        "files": _on_disk(settings, name),
        "splits": {},
    }
    if holder is not None:
        there = [is_folder(folder) for folder in settings.folders(holder).folders]
        found["borrows_from"] = {"data": holder, "root": list(settings.data[holder].roots), "found": all(there)}
    if isinstance(data, ImagesOptions) and data.only:
        found["only"] = list(data.only)
    for split in data.splits:
        found["splits"][split] = _counts(settings, SplitRef(name, split), recognised.set if recognised else None)
    return found


def _on_disk(settings: Settings, name: str) -> list[dict[str, Any]]:
    """The files and folders that a data set is made of, each once, and whether they are there."""
    data, found = settings.data[name], []
    folders = settings.folders(name).folders
    for root, folder in zip(data.roots, folders, strict=True):
        found.append({"what": "folder", "path": root, "found": is_folder(folder), "needed": True, "splits": []})
    splits: dict[Expected, list[str]] = {}
    for split in data.splits:
        for each in expected(data, name, split):
            splits.setdefault(each, []).append(split)
    for each, of in splits.items():
        places = [path for folder in folders if (path := each.found(folder))]
        shown = [_shown(places[0])] if places else [f"{data.roots[0]}/{path}" for path in each.paths]
        found.append(
            {"what": each.what, "path": " or ".join(shown), "found": bool(places), "needed": each.needed, "splits": of}
        )
    return found


def _shown(path: Path) -> str:
    """A path as the params name it: relative to the repository root where it lies below that."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def _counts(settings: Settings, split: SplitRef, known: PublishedSet | None) -> dict[str, Any]:
    counted = count_split(settings, split)
    found: dict[str, Any] = {
        **_named(counted.counts),
        "source": counted.source,
        "why": counted.why,
        "state": "unknown",
        "compared": "",
        "published": [],
    }
    if known is not None:
        key = counted_as(settings.data[split.dataset], known, split.split)
        found["published"] = [_release(each) for each in published(*key)]
        if counted.source is not None:
            compared = verdict(*key, counted.counts)
            found["state"], found["compared"] = compared.state, compared.text
    return found


def _named(counts: Counts) -> dict[str, int | None]:
    return {"images": counts.images, "questions": counts.refs, "texts": counts.sentences}


def _release(each: Published) -> dict[str, Any]:
    values = asdict(each)
    return {**_named(each.counts), "sources": values["sources"], "release": each.release, "where": each.where}


def as_text(found: dict[str, Any]) -> str:
    """What :func:`data_command` found, as text for a person."""
    parts = ["\n".join(_lines(name, each)) for name, each in found.items()]
    if any(each["published_set"] for each in found.values()):
        parts.append(
            "[V]: read on the publisher's site, or printed by code that counts the files; [S]: stated by a third party."
        )
    return "\n\n".join(parts)


def _lines(name: str, found: dict[str, Any]) -> Iterator[str]:
    title = found["published_set"]
    yield f"{name}: " + (f"{title}, by {found['recognised_by']}" if title else "not a known published set")
    given = {option: value for option, value in found["options"].items() if value not in (None, "", [], False)}
    options = ", ".join(f"{option}: {_plain(value)}" for option, value in given.items())
    yield f"  format    {found['format']}" + (f" ({options})" if options else "")
    yield f"  pictures  {_pictures(found)}"
    if title:
        yield f"  get       {found['url'] or NOT_KNOWN}: {found['get'] or NOT_KNOWN}"
        if found["format"] != "images":
            yield f"  licence   of the annotations: {found['licence'] or NOT_KNOWN}"
        yield f"  licence   of the pictures ({found['pictures'] or NOT_KNOWN}): {found['pictures_licence'] or NOT_KNOWN}"
    if found["note"]:
        yield f"  note      {found['note']}"
    for file in found["files"]:
        state = "found" if file["found"] else "MISSING" if file["needed"] else "not here"
        of = f"; {', '.join(file['splits'])}" if file["splits"] else ""
        optional = "" if file["needed"] else ", which may be missing"
        yield f"  {state:<9} {file['path']} ({file['what']}{optional}{of})"
    for split, counts in found["splits"].items():
        yield from _count_lines(f"{name}/{split}", counts, bool(title))


def _plain(value: Any) -> str:
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pictures(found: dict[str, Any]) -> str:
    borrowed = found["borrows_from"]
    if borrowed is None:
        only = f"; new ones only if asked about by {', '.join(found['only'])}" if "only" in found else ""
        return f"its own{only}"
    state = "found" if borrowed["found"] else "MISSING"
    return f"borrowed from {borrowed['data']} ({', '.join(borrowed['root'])}: {state})"


def _count_lines(split: str, found: dict[str, Any], known: bool) -> Iterator[str]:
    counts = Counts(found["images"], found["questions"], found["texts"])
    if found["source"] is None:
        yield f"  {split}: not counted: {found['why']}"
    else:
        how = "as indexed" if found["source"] == "index" else "in its files"
        line = found["compared"] if found["state"] not in ("unknown", "sample") else as_words(counts)
        if found["state"] == "sample":
            line += f": a sample, or your own data in this form; {found['compared']}"
        elif found["state"] == "unknown" and known:
            line += "; no published count is known"
        yield f"  {split}: {line} ({how})" + (f"; {found['why']}" if found["why"] else "")
    for each in found["published"]:
        release = f" {each['release']}" if each["release"] else ""
        numbers = as_words(Counts(each["images"], each["questions"], each["texts"]))
        yield f"    published{release}: {numbers} [{each['sources'].replace('-', '')}: {each['where']}]"
