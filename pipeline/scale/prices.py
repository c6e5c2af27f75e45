"""Section ``prices`` of the params."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.fields import Params

Usd = Annotated[float, Field(ge=0)]


class PriceParams(Params):
    """What work and storage cost, for ``extract --plan``. They differ between providers, so there are no defaults."""

    usd_per_gpu_hour: Usd | None = None
    """Price of one worker: a GPU, and the cores and memory that come with it. null: unknown."""
    usd_per_gb_month: Usd | None = None
    """Price of storage, per 1e9 bytes."""
    usd_per_1000_writes: Usd | None = None
    """Price of requests that write or list, in an object store."""
    usd_per_1000_reads: Usd | None = None
    """Price of requests that read, in an object store."""
