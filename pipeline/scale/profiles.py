"""The figures that a plan rests on: ``profiles.yaml``, checked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from pipeline.config import InputError
from stages.fields import Key, Params, Precision
from stages.names import did_you_mean

FILE = Path(__file__).with_name("profiles.yaml")
Kind = Literal["measured", "derived", "estimate"]
Positive = Annotated[float, Field(gt=0)]
Source = Annotated[str, Field(min_length=10)]


class Card(Params):
    """A card that computes."""

    title: str
    """The name that its driver gives it."""
    memory_gb: Positive
    """Its memory, in 1e9 bytes."""
    tflops: dict[Precision, Positive]
    """Rate of matrix products, in 1e12 operations per second; a multiplication with its addition counts two."""
    gb_per_s: Positive
    """Bandwidth of its memory."""
    source: Source
    """Where the rates come from."""


class Figure(Params):
    """A number with where it comes from; its name says the unit."""

    value: Positive
    """The number."""
    kind: Kind
    """How it was found."""
    source: Source
    """Where it comes from."""


class Share(Params):
    """A part of a whole, with where it comes from."""

    share: Annotated[float, Field(gt=0, le=1)]
    """The part."""
    kind: Kind
    """How it was found."""
    source: Source
    """Where it comes from."""


class Reached(Params):
    """Which share of a card's rates programs reach."""

    products_16bit: Share
    """Share of the rate that matrix products reach in float16 and bfloat16."""
    products_32bit: Share
    """Share of the rate that matrix products reach in float32, without TF32."""
    memory: Share
    """Share of the bandwidth that reading and writing the card's memory reach."""


class Network(Params):
    """What one network has to compute."""

    image_tflop: Positive
    """1e12 operations for an image, once."""
    point_gflop: Annotated[float, Field(ge=0)] = 0
    """1e9 operations for each prompt of everything mode."""
    point_mb: Annotated[float, Field(ge=0)] = 0
    """1e6 bytes that a prompt moves through the card's memory in 16 bit; in float32 it is twice that."""
    kind: Kind
    """How it was found."""
    source: Source
    """Where it comes from."""


class Timed(Params):
    """A network that was timed on a card."""

    card: Key
    """A key of ``cards``."""
    network: str
    """A SAM model or an encoder."""
    precision: Precision
    """Precision of its matrix products."""
    per: Literal["image", "point", "mask"]
    """What the time is for."""
    ms: Positive
    """The time in milliseconds."""
    source: Source
    """The command, the machine and the date."""


class Masks(Params):
    """What an image is expected to hold unless it is given."""

    per_image: Figure
    """Masks of an image in SAM's everything mode."""
    runs_per_side: Figure
    """Runs of a mask's RLE, for each px of the image's height and width together."""
    bytes_per_run: Figure
    """Bytes of a run in the compressed table."""
    mask_bytes: Figure
    """Bytes of the rest of a mask's row, compressed."""
    post_gflop: Figure
    """1e9 operations in float32 for a prompt and a megapixel, from logits to boxes and scores."""


class Host(Params):
    """What the machine around a card takes."""

    launch_ms: Figure
    """Time for an image of everything mode, in which the card waits."""
    decode_ms: Figure
    """Time to decode a megapixel of JPEG, on one core."""
    index_ms: Figure
    """Time to index a megapixel of JPEG, on one core."""
    match_us: Figure
    """Time to compare a mask with an annotated region, on one core."""
    load_s: Figure
    """Time from the start of a worker to its first image: imports, weights, first kernels."""
    plan_ms: Figure
    """Time to look at one shard of one column, before the work and after it."""
    plan_us_per_image: Figure
    """Further time for each image of the shard."""
    publish_ms: Figure
    """Time to write one shard of one column to a disk, without its bytes."""
    publish_s_per_gb: Figure
    """Time to write its bytes."""
    task_ms: Figure
    """Time of the process that hands out tasks on Dask, for one shard: the task, its answer, and a look at a commit."""
    md5_gb_per_s: Figure
    """1e9 bytes per second that DVC digests."""
    memory_kb: Figure
    """Memory of a command for each image of the splits that it works on."""


class Objects(Params):
    """Requests to an object store."""

    writes: Figure
    """Requests that write, for each shard of a column, to make it."""
    reads: Figure
    """Requests that read, for each shard of a column, to make it."""
    waits: Figure
    """Requests that a worker waits for, one after another, to publish a shard of a column."""
    looks: Figure
    """Requests that a command waits for, one after another, to look at a shard of a column."""
    request_ms: Figure
    """Time of one request, until its answer begins."""
    reads_per_record: Figure
    """Requests that read, for each image and array column, to train on it once."""


class Profiles(Params):
    """Everything in ``profiles.yaml``."""

    cards: dict[Key, Card]
    """By the name that ``--gpu`` takes."""
    reached: Reached
    """Shares of the cards' rates."""
    networks: dict[str, Network]
    """SAM models, and encoders whose operations do not follow from their line in stages/encoders."""
    timed: tuple[Timed, ...]
    """What was timed; it takes precedence over what is derived."""
    masks: Masks
    """What an image holds."""
    host: Host
    """The machine around the card."""
    objects: Objects
    """An object store."""

    def card(self, name: str) -> Card:
        """The card of a name; InputError, with the choices, if it is unknown."""
        if name not in self.cards:
            raise InputError(
                f"--gpu: found {name!r}, expected one of {', '.join(self.cards)}{did_you_mean(name, self.cards)}; another card "
                f"is one more entry of section cards in {FILE.relative_to(FILE.parents[2])}"
            )
        return self.cards[name]


@cache
def profiles() -> Profiles:
    """The shipped profiles."""
    return read(FILE)


def read(path: Path) -> Profiles:
    """Profiles of a file; pydantic's ValidationError names what is wrong in it."""
    return Profiles.model_validate(yaml.safe_load(path.read_text("utf-8")))
