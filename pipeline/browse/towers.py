"""The text tower that was used last."""

from __future__ import annotations

import threading

from pipeline.config import Settings
from pipeline.shard import require_device
from pipeline.trained import weights_of
from stages.checkpoints import WeightsError
from stages.encoders import ENCODERS, TextTower, build_text
from stages.weights import expected_sha256
from store.read.borrowed import AnyColumn


class Towers:
    """Loads text towers, and keeps one in memory. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._kept: tuple[str, TextTower] | None = None

    def get(self, encoder: str, column: AnyColumn) -> TextTower:
        """The text tower of an encoder that has one.

        Args:
            column: of vectors that texts are to be compared with.

        Raises:
            WeightsError: its file is not here, or the vectors were made with another file of that name.
        """
        text = ENCODERS[encoder].text
        made_with = column.meta.identity.get("weights", {}).get(text)
        expected = expected_sha256(text, self._settings.weights_lock)
        if made_with not in (None, expected):
            raise WeightsError(
                f"{column.meta.column} was made with another {text} (sha256 {made_with[:12]}) than the one known here "
                f"({expected[:12]}); their texts and masks cannot be compared"
            )
        with self._lock:
            if self._kept is None or self._kept[0] != encoder:
                self._kept = None  # first: memory may not hold two
                path = weights_of(self._settings)(text)
                self._kept = encoder, build_text(encoder, path, require_device(self._settings))
            return self._kept[1]
