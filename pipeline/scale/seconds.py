"""Seconds that an image takes on a card, network by network: as it was timed, or else from operations and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import InputError, Settings
from pipeline.scale.amounts import Workload, made, masks_of
from pipeline.scale.profiles import Card, Kind, Network, Profiles
from stages.dense import every_form
from stages.encoders import ENCODERS
from stages.fields import Precision
from stages.proposers.params import SamParams
from stages.proposers.sam import features_column
from store.format.names import proposer_of

BYTES = {"float32": 2, "float16": 1, "bfloat16": 1}
"""Precision -> bytes of a number, as a multiple of those in 16 bit."""


@dataclass(frozen=True)
class Part:
    """A part of a stage's time: its seconds, how that figure was found, and its source."""

    stage: str
    name: str
    seconds: float
    kind: Kind
    source: str


def parts(settings: Settings, profiles: Profiles, card_name: str, work: Workload) -> list[Part]:
    """The parts of an image's time, of a data set that holds its images or borrows them.

    Raises:
        InputError: nothing is known of a network.
    """
    clock = _Clock(profiles, card_name)
    columns = {spec.name for spec in made(settings, work)}
    found = [*_masks(settings, clock, columns, work), *_embeddings(settings, clock, work)]
    pairs = sum(
        masks_of(settings, spec, work) * (work.questions if spec.name.endswith("/targets") else work.instances)
        for spec in made(settings, work)
        if spec.stage == "match"
    )
    if pairs:
        each = profiles.host.match_us
        found.append(Part("match", "masks with annotations", pairs * each.value / 1e6, each.kind, each.source))
    return found


class _Clock:
    """How long operations take on a card."""

    def __init__(self, profiles: Profiles, card_name: str) -> None:
        self.profiles, self.name = profiles, card_name
        self.card: Card = profiles.card(card_name)

    def products(self, tflop: float, precision: Precision) -> float:
        """Seconds of matrix products."""
        reached = self.profiles.reached
        share = (reached.products_32bit if precision == "float32" else reached.products_16bit).share
        return tflop / self.card.tflops[precision] / share

    def movement(self, gigabytes: float) -> float:
        """Seconds of reading and writing the card's memory."""
        return gigabytes / self.card.gb_per_s / self.profiles.reached.memory.share

    def timed(self, network: str, precision: Precision, per: str) -> tuple[float, str] | None:
        """Seconds that were timed on this card, and the source."""
        for one in self.profiles.timed:
            if (one.card, one.network, one.precision, one.per) == (self.name, network, precision, per):
                return one.ms / 1000, one.source
        return None

    def part(self, stage: str, network: str, precision: Precision, per: str, count: float, derived: float) -> Part:
        """``count`` images, points or masks: as timed, else the seconds that were ``derived`` for one."""
        found = self.timed(network, precision, per)
        if found:
            return Part(stage, f"{network}, {per}s", found[0] * count, "measured", found[1])
        return Part(stage, f"{network}, {per}s", derived * count, "derived", "operations and bytes")


def _masks(settings: Settings, clock: _Clock, columns: set[str], work: Workload) -> Iterator[Part]:
    runs: dict[tuple[str, Precision], float] = {
        (name, settings.embed.precision): 1
        for name in settings.embed.sam_features
        if not columns.isdisjoint(every_form(features_column(name)))
    }
    points: dict[tuple[str, Precision], float] = {}
    for name, proposer in settings.proposers.items():
        if isinstance(proposer, SamParams) and f"masks/{name}" in columns:
            key = (proposer.model, proposer.precision)
            crops = sum(4**layer for layer in range(1, proposer.crop_n_layers + 1))
            runs[key] = max(runs.get(key, 0), 1) + crops  # the whole image's run is shared
            factor = proposer.crop_n_points_downscale_factor
            points[key] = points.get(key, 0) + sum(
                4**layer * (proposer.points_per_side // factor**layer) ** 2
                for layer in range(proposer.crop_n_layers + 1)
            )
    for (model, precision), count in runs.items():
        one = clock.products(_network(clock.profiles, model).image_tflop, precision)
        yield clock.part("masks", model, precision, "image", count, one)
    for (model, precision), count in points.items():
        yield clock.part("masks", model, precision, "point", count, _point(clock, model, precision, work.megapixels))
    if points:
        launch = clock.profiles.host.launch_ms
        yield Part("masks", "waiting for the host", launch.value / 1000, launch.kind, launch.source)


def _point(clock: _Clock, model: str, precision: Precision, megapixels: float) -> float:
    """Seconds of a prompt: the decoder, bound by operations or by memory, and comparing its logits at the image's size."""
    network, post = _network(clock.profiles, model), clock.profiles.masks.post_gflop.value
    decoder = max(
        clock.products(network.point_gflop / 1000, precision),
        clock.movement(network.point_mb * BYTES[precision] / 1000),
    )
    return decoder + clock.products(post * megapixels / 1000, "float32")


def _embeddings(settings: Settings, clock: _Clock, work: Workload) -> Iterator[Part]:
    precision = settings.embed.precision
    for name in (*settings.embed.mask_encoders, *settings.embed.image_encoders):
        encoder, regions = ENCODERS[name], 0.0
        for spec in made(settings, work):
            if spec.stage == "embed" and spec.name.rpartition("/")[2] == name:
                limit = spec.layout.row_shape[0] if spec.layout else 0
                of = masks_of(settings, spec, work) if proposer_of(spec.name) else work.instances
                regions += 1 if encoder.kind == "image" else min(of, limit)
        if not regions or (encoder.reads_sam_features and name in settings.embed.sam_features):
            continue  # only pooling
        each = encoder.module == "alphaclip"  # a forward for every mask; the others look at the image once
        one = clock.products(_operations(clock.profiles, name), precision)
        per, count = ("mask", regions) if each else ("image", 1.0)
        yield clock.part("embed", name, precision, per, count, one)


def _operations(profiles: Profiles, name: str) -> float:
    """1e12 operations of an encoder's network, once."""
    options = ENCODERS[name].options
    if ENCODERS[name].module in ("alphaclip", "clip", "dinov2"):
        width = options.get("width", ENCODERS[name].dim)
        side = options["input_px"] // options.get("patch_px", 14)
        return vit_tflop(width, options["layers"], side**2 + 1 + options.get("registers", 0))
    return _network(profiles, name).image_tflop


def vit_tflop(width: int, layers: int, tokens: int) -> float:
    """1e12 operations of a vision transformer's blocks: 12 N d^2 + 2 N^2 d multiplications each, two operations each."""
    return 2 * layers * (12 * tokens * width**2 + 2 * tokens**2 * width) / 1e12


def _network(profiles: Profiles, name: str) -> Network:
    if name not in profiles.networks:
        raise InputError(
            f"nothing is known of what {name} computes; expected an entry of section networks in pipeline/scale/profiles.yaml: "
            f"{', '.join(profiles.networks)}"
        )
    return profiles.networks[name]
