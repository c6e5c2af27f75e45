"""Shows a store in a browser."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pipeline.browse.serve import check_reach, serve
from pipeline.browse.shelf import Shelf, splits_of
from pipeline.config import Settings


def browse_command(
    settings: Settings, split: str | None, data: Sequence[str], host: str, port: int, token: str | None
) -> None:
    """Serve the pages of some splits until Ctrl-C. Everything is checked before the port is bound.

    Raises:
        InputError: there is nothing to show, others could reach the server without a token, or the port is taken.
    """
    check_reach(settings, host, token)
    os.environ["HF_HUB_OFFLINE"] = "1"  # set before its library is imported: showing a page must not use the network
    shelf = Shelf(settings, splits_of(settings, split, data))
    lines = [f"browse: {len(shelf.splits)} splits of {settings.store}, to be opened in a browser; Ctrl-C ends it"]
    if token is not None:
        lines.append("the first time with the token: /?token=TOKEN")

    def say(address: str) -> None:
        print("\n".join([*lines, address]), flush=True)

    serve(shelf, host, port, token, say)
