"""Libraries that nearly every command imports, for a process that imports them once and is forked for each piece of work."""

from __future__ import annotations

THIRD_PARTY = (
    "cv2", "numba", "open_clip", "pyarrow.parquet", "pycocotools.mask", "pydantic", "segment_anything", "torchvision",
    "transformers.models.clip.modeling_clip", "transformers.models.gemma.modeling_gemma",
    "transformers.models.llava.modeling_llava",
)  # fmt: skip
"""None of them is ours, and none looks for a GPU while it is imported (a test of ``make check-gpu`` says so)."""
