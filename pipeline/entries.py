"""The images of a split in their permanent order, where borrowed images lie, and the files that the index is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipeline.config import InputError, Settings
from pipeline.draws import drawn_pictures
from pipeline.listed import list_all, list_held, not_indexed
from pipeline.look import Look, digest_files
from pipeline.upstream import known_links, known_sources, place_of
from stages import datasets
from stages.base import HELD_IMAGES, ColumnSpec, Entry
from stages.datasets.base import Source
from stages.datasets.params import ImagesOptions
from stages.index import order
from stages.names import SplitRef
from stages.source_files import source_content, source_files
from store.errors import DamagedStoreError
from store.format.column import fingerprint
from store.format.lineage import FILE
from store.format.links import Link
from store.format.schema import REMOVED


def seen_entries(look: Look, split: SplitRef) -> tuple[Entry, ...]:
    """The images of a split in their permanent order: those the store knows, then the new ones of the data set.

    They are listed once in a look.

    Raises:
        DatasetError: the data set cannot be listed.
        InputError: the data set that holds the images is not indexed yet.
    """
    if split not in look.entries:
        entries = order(known_sources(look.settings, split), list_sources(look, split))
        look.entries[split] = linked(look, split, entries)
    return look.entries[split]


def list_sources(look: Look, split: SplitRef) -> list[Source]:
    """What the data set lists, asked once per ``look``. Raises DatasetError where it cannot be listed.

    Where ``only`` names data sets or splits, new images are listed only if one of these asks about them; where it names runs, also
    those that their trainings draw.
    """
    if split not in look.sources:
        look.sources[split] = _list_sources(look, split)
    return look.sources[split]


def _list_sources(look: Look, split: SplitRef) -> list[Source]:
    settings, found = look.settings, list_all(look, split)
    data = settings.data[split.dataset]
    if not isinstance(data, ImagesOptions) or not data.only:
        return found
    asked = {image_id for image_id, _ in known_sources(settings, split)}
    for one in settings.splits:
        if one.dataset in data.only or str(one) in data.only:
            asked |= {source.image_id for source in list_sources(look, one)}
    for run in data.only_runs:
        for drawn, image_ids in drawn_pictures(look, run).items():
            if settings.holder(drawn.dataset) == split.dataset:
                asked |= image_ids
    return [source for source in found if source.image_id in asked]


def linked(look: Look, split: SplitRef, entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries of borrowed images with where they lie: where they lay before, else by image_id.

    An image_id is unique only within a split. It means the image in the holder's split of the same name, else in the only split
    that has it, or in the first of several that have the same file. A split from which the holder removed the image comes last.

    Raises:
        InputError: an image_id that the split of the same name does not have may be several pictures, or may be in a split of the
            holder that is not indexed yet.
    """
    settings = look.settings
    if settings.holder(split.dataset) is None:
        return tuple(entries)
    held, found = look.held_images(split.dataset), []
    there: dict[str, list[Link]] = {}
    for where in sorted(settings.held(split.dataset), key=lambda where: where.split != split.split):
        for index, (image_id, _) in enumerate(held[where.split]):
            there.setdefault(image_id, []).append((where.split, index))
    size = settings.shard_images
    shards = range(-(-len(entries) // size))
    before = {
        shard * size + at: link
        for shard in shards
        for at, link in enumerate(known_links(settings, look.records, split, shard))
    }
    for number, entry in enumerate(entries):
        links = there.get(entry.source.image_id, [])
        now = [each for each in links if not _is_removed(look, split.dataset, each)]
        link = before.get(number)
        if link not in now:
            link = next(iter(now or links), None)
            if not entry.removed and (not now or now[0][0] != split.split):
                if empty := [each for each in settings.held(split.dataset) if not held[each.split]]:
                    # it may have the image, or another one of this image_id
                    missing = not_indexed(settings, empty[0], f"python cli.py index --data {empty[0].dataset}")
                    raise InputError(f"{split} borrows from {empty[0].dataset}: {missing}")
                _require_one_picture(look, split, entry.source.image_id, now)
        if link is not None:
            entry = replace(entry, link=link, held=held[link[0]][link[1]][1])
        found.append(entry)
    _require_listed(look, split, found)
    return tuple(_unlisted(look, split, found))


def _unlisted(look: Look, split: SplitRef, entries: Sequence[Entry]) -> Sequence[Entry]:
    """The entries; if the holder lists only what runs draw, entries that it does not list get their files' paths there."""
    holder = look.settings.data[look.settings.data[split.dataset].images]
    if not isinstance(holder, ImagesOptions) or not holder.only_runs:
        return entries
    held = list_held(look, split)
    lacking = {
        number: there
        for number, entry in enumerate(entries)
        if entry.link is None and not entry.removed and (there := held.get(entry.source.image_id))
    }
    paths = [path for there in lacking.values() for path in (there.path, *there.others)]
    digests = look.file_digests(look.settings.data[split.dataset].images, paths)
    found = list(entries)
    for number, there in lacking.items():
        sha256 = tuple(digests[path] for path in (there.path, *there.others))
        found[number] = replace(found[number], held=there.path, unlisted=there, digests=sha256)
    return found


def _require_listed(look: Look, split: SplitRef, entries: Sequence[Entry]) -> None:
    """Raise InputError where the holder lists ``only`` what is asked about or drawn, and has not listed all of it yet."""
    settings = look.settings
    holder = settings.data[split.dataset].images
    data = settings.data[holder]
    lacking = {entry.source.image_id for entry in entries if entry.link is None and not entry.removed}
    if not lacking or not isinstance(data, ImagesOptions) or not data.only:
        return
    if not data.only_runs and not {split.dataset, str(split)} & {*data.only}:
        return
    listed = {source.image_id for one in settings.held(split.dataset) for source in list_sources(look, one)}
    if pending := sorted(lacking & listed):
        raise InputError(
            f"{split}: {len(pending)} images that it asks about are in the folders of {holder} and not in its index yet, such as "
            f"{pending[0]}; run: python cli.py index --data {holder}"
        )


def _require_one_picture(look: Look, split: SplitRef, image_id: str, links: Sequence[Link]) -> None:
    """Raise InputError, naming two of them, where the images of one image_id in several splits of the holder are not one file."""
    if len(links) < 2:
        return
    settings, holder = look.settings, look.settings.data[split.dataset].images
    found: dict[str, str] = {}
    for name, index in links:
        place = place_of(settings, SplitRef(holder, name), "images")
        shard, at = divmod(index, settings.shard_images)
        commit = look.records.commit(place, shard)
        if commit is not None:
            found.setdefault(look.sha256(place, commit)[at], name)
    if len(found) > 1:
        one, other, *_ = found.values()
        raise InputError(
            f"{split}: the image_id {image_id!r} is in {holder}/{one} and in {holder}/{other}, which are different pictures; "
            f"expected image_ids that only one split of {holder} has, or a split of {split.dataset} with the name of the right one"
        )


def _is_removed(look: Look, dataset: str, link: Link) -> bool:
    """Whether the holder no longer has an image in this split; another of its splits may have it now."""
    settings = look.settings
    shard, at = divmod(link[1], settings.shard_images)
    try:
        commit = look.records.commit(
            place_of(settings, SplitRef(settings.data[dataset].images, link[0]), "images"), shard
        )
    except DamagedStoreError:
        return False
    return commit is not None and commit.status[at : at + 1] == (REMOVED,)


def files_of(
    spec: ColumnSpec, entries: Sequence[Entry], digests: Callable[[list[str]], Mapping[str, str]]
) -> dict[str, str]:
    """Digests of the source files that a shard of the index is made from; for borrowed images, of the list of them.

    Args:
        digests: gives the sha256 of files.
    """
    if HELD_IMAGES in spec.reads:
        asked = [[each.source.image_id, each.removed, each.link, *each.digests] for each in entries]
        return {ASKED: fingerprint({"images": asked})}
    if spec.files is None:
        return {}
    found = dict(digests(list(dict.fromkeys(path for entry in entries for path in source_files(entry, spec.files)))))
    for entry in entries:
        found |= source_content(entry, spec.files)
    return found


def files_now(
    settings: Settings, dataset: str, wanted: Mapping[str, ColumnSpec], entries: Sequence[Entry]
) -> dict[str, dict[str, str]]:
    """As :func:`files_of`, for several columns by name, with the files and their content as they are now.

    Raises:
        DatasetError: a file that covers many images cannot be read. FileNotFoundError: it is not there.
    """
    known = [entry.source for entry in entries if entry.source.content]
    if known and any(spec.files == "annotations" for spec in wanted.values()):
        now = iter(datasets.contents(settings.data[dataset], settings.folders(dataset), known))
        entries = [
            replace(entry, source=replace(entry.source, content=next(now))) if entry.source.content else entry
            for entry in entries
        ]
    return {name: files_of(spec, entries, partial(digest_files, settings, dataset)) for name, spec in wanted.items()}


ASKED = ""
"""Stands for the path of a source file: the list of the images that a borrower asks for."""


def of_files(files: Mapping[str, str]) -> dict[str, str]:
    """Digests of source files, by the names that they have in a record."""
    return {f"{FILE}{path}": sha256 for path, sha256 in files.items()}
