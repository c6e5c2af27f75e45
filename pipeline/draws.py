"""Which pictures a run draws, known from the annotation files before anything is extracted, or even listed.

A mixture draws from the pictures of its splits that can be read and have annotations (:class:`store.stream.source.Source`). Both
can be known from the files. So the schedule that the training will follow is made here in the same way, and what it draws is what
has to be listed. What the files say of each picture is kept below the cache folder, for as long as they stay as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from pipeline.config import ROOT, InputError, Settings
from pipeline.graph import specs
from pipeline.leaks import Pictures, indexed_pictures, left_out, pictures_in
from pipeline.listed import list_all, list_held
from pipeline.look import Look
from pipeline.runs import resolve
from pipeline.upstream import known_sources, place_of
from stages.base import Entry
from stages.datasets import FORMATS, reading
from stages.datasets.base import DatasetError
from stages.digests import digests_in
from stages.image_rows import image_row
from stages.images import ImageFailure
from stages.index import TARGETS_VERSION, VERSION, annotation_of, order
from stages.kept import keep, kept
from stages.listings import code_digest
from stages.names import SplitRef
from stages.progress import progress
from stages.source_files import source_content, source_files
from stages.threads import cores, in_threads
from stages.train.draw import epoch_length, groups_of, samples_of
from stages.train.params import TrainParams
from store.errors import StoreError
from store.format.column import fingerprint
from store.format.lineage import Lineage
from store.format.links import Link
from store.format.schema import FAILED, OK
from store.stream.mixture import MixtureSchedule
from store.stream.sample_set import SampleSet
from store.stream.source import Source, pool_of

Asked = tuple[str, int, bool]
"""A target's kind, its number of texts, and whether its premise is false."""


@cache
def _asked(kind: str, texts: int, absent: bool) -> Asked:
    """One object for equal values: a data set has few different values, and a million targets."""
    return kind, texts, absent


@dataclass(frozen=True)
class Facts:
    """What the files say of the images of a split, in their permanent order.

    sha256, paths: of the picture, empty where it cannot be read. targets: those of each image; None where it cannot be used, or
    where the annotation was not asked for.
    """

    sha256: tuple[str, ...]
    paths: tuple[str, ...]
    targets: tuple[tuple[Asked, ...] | None, ...]


def drawn_pictures(look: Look, name: str) -> Mapping[SplitRef, frozenset[str]]:
    """Split -> image_id of the pictures that a run trains on: what the schedule of a mixture draws, else all; once per ``look``.

    If nothing is drawn from a split, its first picture stands there, so that the split can be opened.

    A picture that failed in a column of the store is drawn again, as in the training.

    Raises:
        InputError: one of its data sets cannot be listed, its parameters do not fit, or a picture is gone.
    """
    if name not in look.drawn:
        try:
            look.drawn[name] = _drawn_by(look, name)
        except (DatasetError, FileNotFoundError) as error:
            raise InputError(
                f"run {name}, whose pictures the option `only` asks for, cannot be drawn: {error}"
            ) from error
    return look.drawn[name]


def _drawn_by(look: Look, name: str) -> Mapping[SplitRef, frozenset[str]]:
    run = resolve(look.settings, None, name)
    params = run.params
    splits = look.settings.refs("train.mixture" if params.mixture else "train.train", params.splits)
    if not params.mixture:
        return {split: frozenset(source.image_id for source in list_all(look, split)) for split in splits}
    facts = {split: facts_of(look, split, annotated=True) for split in splits}
    seen = partial(_pictures, look, params.leaks_pixels, splits)
    without = left_out(look.settings, splits, params.leaks, params.leaks_pixels, seen).images
    sources = {
        str(split): _source(found, without.get(str(split), ()), _failed(look.settings, split))
        for split, found in facts.items()
    }
    try:
        drawn = _drawn(params, run.system, sources)
    except ValueError as error:
        raise InputError(f"run {name}, whose pictures the option `only` asks for: {error}") from error
    found = {}
    for split in splits:
        ids = [entry.source.image_id for entry in _order(look, split)]
        one = sources[str(split)].image[:1].tolist()  # so that the split's columns of pictures can be opened
        found[split] = frozenset(ids[image] for image in drawn[str(split)] or one)
    return found


def _drawn(params: TrainParams, system: str, sources: Mapping[str, Source]) -> dict[str, set[int]]:
    """Source -> image_index of what the training draws, with one process."""
    sets = {name: SampleSet(one.image, np.full(len(one.image), -1, np.int64)) for name, one in sources.items()}
    schedule = MixtureSchedule(
        sets, params.batch_size, True, params.seed, tail="drop", length=epoch_length(params),
        sources=sources, groups=groups_of(params), questions=params.questions, draw=params.draw,
    )  # fmt: skip
    found: dict[str, set[int]] = {name: set() for name in sources}
    names = list(sources)
    for epoch, number in samples_of(schedule, params, system):
        at, image, _, _ = schedule.sample(epoch, number)[0]
        found[names[at]].add(image)
    return found


def _source(facts: Facts, without: Sequence[int], failed: set[int]) -> Source:
    """What is drawn from a split, as :func:`store.stream.source.source_of` finds it in the store."""
    left = set(without)
    image = [number for number, asked in enumerate(facts.targets) if asked is not None and number not in left]
    asked = [target for number in image for target in facts.targets[number] or ()]
    return Source(
        pool_of(asked[0][0] if asked else ""),
        np.array(image, np.int64),
        np.array([len(facts.targets[number] or ()) for number in image], np.int64),
        np.array([texts for _, texts, _ in asked], np.int64),
        np.array([absent for _, _, absent in asked], bool),
        np.array([number in failed for number in image], bool),
    )


def _order(look: Look, split: SplitRef) -> list[Entry]:
    return order(known_sources(look.settings, split), list_all(look, split))


def _pictures(look: Look, pixels: bool, trained: Sequence[SplitRef], split: SplitRef) -> Pictures | None:
    """The pictures of a split as the files say; as the index says, where they are gone; None where it has none either."""
    try:
        facts = facts_of(look, split, annotated=split in trained)
    except (DatasetError, FileNotFoundError):
        return indexed_pictures(look.settings, split, pixels)
    pairs = enumerate(zip(facts.sha256, facts.paths, strict=True))
    return pictures_in(look.settings, split, {number: pair for number, pair in pairs if pair[0]}, pixels)


def _failed(settings: Settings, split: SplitRef) -> set[int]:
    """image_index of the pictures of a split that failed in a column of the store that is made of pixels."""
    holder = settings.data[split.dataset].images
    bad: set[Link] = set()
    for where in settings.held(split.dataset):
        bad |= {(where.split, index) for index in _failed_in(settings, where)}
    ids = {known_sources(settings, SplitRef(holder, name))[index][0] for name, index in bad}
    own = _failed_in(settings, split) if holder != split.dataset else set()
    return own | {index for index, (image_id, _) in enumerate(known_sources(settings, split)) if image_id in ids}


def _failed_in(settings: Settings, split: SplitRef) -> set[int]:
    """image_index of the pictures that failed in a shard that is there, of columns that are made after the index."""
    records, found = Lineage(settings.store_path), set[int]()
    for name, spec in specs(settings, split.dataset).items():
        if spec.over is not None or spec.stage == "index":
            continue
        place = place_of(settings, split, name)
        with contextlib.suppress(StoreError):  # damaged: verify reports it
            meta = records.meta(place)
            for shard in range(meta.shards if meta is not None else 0):
                commit = records.commit(place, shard)
                status = () if commit is None else commit.status
                found |= {shard * settings.shard_images + at for at, one in enumerate(status) if one == FAILED}
    return found


_known: dict[str, Facts] = {}


def facts_of(look: Look, split: SplitRef, annotated: bool) -> Facts:
    """What the files say of the images of a split now.

    Args:
        annotated: also what is asked about them, for which the annotation of each is read as the index reads it.

    Raises:
        DatasetError: the data set, or the one that holds its pictures, cannot be listed.
    """
    settings, data = look.settings, look.settings.data[split.dataset]
    held = None if settings.holder(split.dataset) is None else list_held(look, split)
    entries = _order(look, split)
    pictures = [
        None if entry.removed else entry.source if held is None else held.get(entry.source.image_id)
        for entry in entries
    ]
    paths = [() if each is None else (each.path, *each.others) for each in pictures]
    files = [source_files(entry, "annotations") if annotated else () for entry in entries]
    of_pictures = look.file_digests(data.images, [path for each in paths for path in each])
    of_files = look.file_digests(split.dataset, [path for each in files for path in each])
    key = fingerprint(
        {
            "code": [code_digest(), VERSION, TARGETS_VERSION, FORMATS[data.format].version],
            "reading": [reading(data), settings.data[data.images].max_pixels, annotated],
            "images": [
                [entry.source.image_id, [[path, of_pictures[path]] for path in mine], [of_files[path] for path in own]]
                + ([source_content(entry, "annotations")] if annotated else [])
                for entry, mine, own in zip(entries, paths, files, strict=True)
            ],
        }
    )
    if key not in _known:
        place = (
            ROOT / settings.run.cache_dir / f"{hashlib.sha256(f'{split} {annotated}'.encode()).hexdigest()[:32]}.facts"
        )
        known = kept(place, key)
        if known is None:
            read = [None if each is None else Entry(each) for each in pictures]
            _known[key] = _read(settings, split, entries, read, annotated)
            keep(place, key, vars(_known[key]))
        else:
            asked = [None if each is None else tuple(_asked(*one) for one in each) for each in known["targets"]]
            _known[key] = Facts(tuple(known["sha256"]), tuple(known["paths"]), tuple(asked))
    return _known[key]


def _read(
    settings: Settings, split: SplitRef, entries: Sequence[Entry], pictures: Sequence[Entry | None], annotated: bool
) -> Facts:
    data, holder = settings.data[split.dataset], settings.data[split.dataset].images
    folder, root = settings.folders(split.dataset).folders[0], settings.folders(holder)
    digests, size = digests_in(ROOT / settings.run.cache_dir), settings.data[holder].max_pixels
    borrowed = root if holder != split.dataset else None

    def read(number: int) -> tuple[str, str, tuple[Asked, ...] | None]:
        picture = pictures[number]
        if picture is None:
            return "", "", None
        row, _ = image_row(root, picture, size, digests)
        if row["status"] != OK:
            return "", "", None
        found = annotation_of(data, folder, borrowed, entries[number], row) if annotated else None
        if found is None or isinstance(found, ImageFailure):
            return row["sha256"], row["path"], None
        asked = tuple(_asked(target.kind, len(target.texts), target.absent) for target in found[0].targets)
        return row["sha256"], row["path"], asked

    threads, found = min(cores(), settings.run.prefetch), []
    with progress(
        f"what is asked in {split}" if annotated else f"pictures of {split}", len(entries), "image"
    ) as advance:
        for each in in_threads(read, range(len(entries)), threads, settings.run.prefetch):
            found.append(each)
            advance(1)
    digests.keep()
    sha256, paths, targets = zip(*found, strict=True) if found else ((), (), ())
    return Facts(sha256, paths, targets)
