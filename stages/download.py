"""Fetching a file, going on where an earlier call stopped."""

from __future__ import annotations

from pathlib import Path

import requests
from tqdm import tqdm

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = (10, 60)  # to connect; between two blocks


def download(url: str, part: Path, name: str, size_bytes: int | None, progress: bool) -> None:
    """Complete ``part``. A server that cannot resume in the middle sends all of it again.

    Args:
        name: shown in front of the bar.
        size_bytes: of the file, for a server that does not say it.
        progress: show a bar on stderr, if that is a terminal.

    Raises:
        requests.RequestException: it cannot be fetched; what was received is kept.
    """
    have = part.stat().st_size if part.is_file() else 0
    # Plain bytes, so that the length of the local file is the position to resume from.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if have and response.status_code == requests.codes.requested_range_not_satisfiable:
            return  # there is nothing after the last byte: the file is complete, or the digest check will fail
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        have = have if resumed else 0
        hidden = None if progress else True  # None: shown on a terminal only
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else size_bytes
        bar = tqdm(desc=name, total=total, initial=have, unit="B", unit_scale=True, disable=hidden)
        with part.open("ab" if resumed else "wb") as file, bar:
            for block in response.iter_content(_BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
