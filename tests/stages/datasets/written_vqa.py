"""Conversations as LLaVA's data files have them: a list of records, human and gpt in turn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def record(number: Any, image: str | None, *said: str) -> dict[str, Any]:
    """A record whose first turn is a human's; image: as the file has it, or None for text alone."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(said)]
    return {"id": number, **({} if image is None else {"image": image}), "conversations": turns}


def write(root: Path, records: Any, file: str = "llava_instruct_150k.json") -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(records))
