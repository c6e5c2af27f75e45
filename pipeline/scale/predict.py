"""Hours, bytes, requests and money of an extraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.config import Settings
from pipeline.graph import EXTRACTED
from pipeline.scale.amounts import Workload, bytes_per_image, made
from pipeline.scale.profiles import Card, Profiles
from pipeline.scale.seconds import Part, parts
from store.addresses import is_remote

Measured = Callable[[str], tuple[float, int]]
"""Stage -> seconds of an image that shards of the store took on the card, and over how many images; (0, 0): there are none."""


@dataclass(frozen=True)
class Column:
    """A column, over all data sets: the stage that makes it, its shards, and its bytes on disk."""

    name: str
    stage: str
    is_array: bool
    images: int
    shards: int
    bytes: float


@dataclass(frozen=True)
class Prediction:
    """What an extraction takes. Without a price, the values that depend on it are None.

    Args:
        parts: of the time of one worker that is never idle, each with seconds over all images.
        columns: of the data sets, upstream first; those of stage center are made by ``normalize``.
        looking: seconds in which the store is looked at, before and after the work.
        seconds: from the start of the command to its end.
        cores: processor cores that a worker needs to decode images as fast as its card takes them.
        writes, reads: requests to an object store, to make the columns of ``extract``.
        reads_per_epoch: requests that read every array column of every image once.
    """

    card: Card
    workers: int
    work: tuple[Workload, ...]
    parts: tuple[Part, ...]
    columns: tuple[Column, ...]
    looking: float
    seconds: float
    cores: float
    writes: float
    reads: float
    reads_per_epoch: float
    usd_work: float | None
    usd_month: float | None
    usd_requests: float | None

    @property
    def images(self) -> int:
        """Images of all data sets; a picture counts in each that shows it."""
        return sum(work.images for work in self.work)

    @property
    def shards(self) -> int:
        """Shards of a column that all data sets have."""
        return sum(work.shards for work in self.work)

    @property
    def bytes(self) -> float:
        """Bytes of all columns."""
        return sum(column.bytes for column in self.columns)

    @property
    def busy(self) -> float:
        """Seconds of one worker that is never idle."""
        return sum(part.seconds for part in self.parts)


def predict(
    settings: Settings,
    profiles: Profiles,
    card: str,
    workers: int,
    work: Sequence[Workload],
    measured: Measured = lambda stage: (0.0, 0),
) -> Prediction:
    """Work out what an extraction with the settings takes.

    Args:
        card: a key of the profiles' cards; every worker has one.
        work: the images of each split.
        measured: what the store knows of this card; it takes precedence over the profiles.

    Raises:
        InputError: there is no such card, or nothing is known of a network.
    """
    host, objects, prices = profiles.host, profiles.objects, settings.prices
    done = _parts(settings, profiles, card, work, measured)
    columns = _columns(settings, profiles, work)
    extracted = sum(column.shards for column in columns if column.stage in EXTRACTED)
    files = sum(column.shards for column in columns)
    asking = objects.looks.value * objects.request_ms.value if is_remote(settings.store_path) else 0.0
    looking = files * (host.plan_ms.value + asking) / 1e3
    looking += sum(column.images for column in columns) * host.plan_us_per_image.value / 1e6
    busy, shards = sum(part.seconds for part in done), sum(each.shards for each in work)
    seconds = duration(busy, shards, workers, looking + len(EXTRACTED) * host.load_s.value)
    decoded = 2 * sum(each.images * each.megapixels for each in work)  # once for the masks, once for their embeddings
    writes, reads = extracted * objects.writes.value, extracted * objects.reads.value
    asked = [_times(writes / 1000, prices.usd_per_1000_writes), _times(reads / 1000, prices.usd_per_1000_reads)]
    return Prediction(
        card=profiles.card(card),
        workers=workers,
        work=tuple(work),
        parts=tuple(done),
        columns=tuple(columns),
        looking=looking,
        seconds=seconds,
        cores=decoded * host.decode_ms.value / 1000 / busy if busy else 0.0,
        writes=writes,
        reads=reads,
        reads_per_epoch=sum(column.images for column in columns if column.is_array) * objects.reads_per_record.value,
        usd_work=_times(seconds * workers / 3600, prices.usd_per_gpu_hour),
        usd_month=_times(sum(column.bytes for column in columns) / 1e9, prices.usd_per_gb_month),
        usd_requests=None if None in asked else sum(each or 0.0 for each in asked),
    )


def duration(busy: float, shards: int, workers: int, alone: float) -> float:
    """Seconds that ``workers`` take: the work that cannot be shared, and full rounds of shards of equal length.

    Args:
        busy: seconds of all shards. alone: seconds before and after them.
    """
    return alone + (busy * -(-shards // workers) / shards if shards else 0.0)


def _parts(
    settings: Settings, profiles: Profiles, card: str, work: Sequence[Workload], measured: Measured
) -> list[Part]:
    """Parts of the time of one worker over all images; a single part for a stage that was measured on the card as a whole."""
    sums: dict[tuple[str, str], Part] = {}
    for each in work:
        for part in parts(settings, profiles, card, each):
            before = sums.get((part.stage, part.name))
            total = part.seconds * each.images + (before.seconds if before else 0.0)
            sums[part.stage, part.name] = replace(part, seconds=total)
    images = sum(each.images for each in work)
    found = list(sums.values())
    for stage in EXTRACTED:
        seconds, count = measured(stage)
        if count:
            source = f"{count} images in this store's shards"
            found = [part for part in found if part.stage != stage]
            found.append(Part(stage, "the stage", seconds * images, "measured", source))
        computing = sum(part.seconds for part in found if part.stage == stage)
        publishing = sum(each.shards * publish_seconds(settings, profiles, each, stage) for each in work)
        if publishing > computing:
            source = "requests and bytes of a shard, which is published while the next one is computed"
            found.append(Part(stage, "waiting until shards are published", publishing - computing, "derived", source))
    return sorted(found, key=lambda part: EXTRACTED.index(part.stage))


def publish_seconds(settings: Settings, profiles: Profiles, work: Workload, stage: str) -> float:
    """Seconds to write and commit a stage's columns of one shard: on a disk, or in a bucket where the store is in one."""
    host, objects, seconds = profiles.host, profiles.objects, 0.0
    for spec in (spec for spec in made(settings, work) if spec.stage == stage):
        size = bytes_per_image(settings, profiles, spec, work) * work.images / work.shards / 1e9
        seconds += host.publish_ms.value / 1e3 + size * host.publish_s_per_gb.value
        if is_remote(settings.store_path):
            seconds += objects.waits.value * objects.request_ms.value / 1e3
    return seconds


def _columns(settings: Settings, profiles: Profiles, work: Sequence[Workload]) -> list[Column]:
    found: dict[str, Column] = {}
    for each in work:
        for spec in made(settings, each):
            size = bytes_per_image(settings, profiles, spec, each) * each.images
            before = found.get(spec.name, Column(spec.name, spec.stage, spec.layout is not None, 0, 0, 0.0))
            found[spec.name] = Column(
                spec.name,
                spec.stage,
                spec.layout is not None,
                before.images + each.images,
                before.shards + each.shards,
                before.bytes + size,
            )
    return list(found.values())


def _times(amount: float, price: float | None) -> float | None:
    return None if price is None else amount * price
