"""The kernel compiled ahead of time for every kind of card it is meant for. No GPU is needed for that."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from stages.proposers.sam import kernels  # noqa: E402

SHARED_BYTES = {75: 65_536, 80: 166_912, 86: 101_376, 90: 232_448}
"""Compute capability -> shared memory that one block may have (CUDA C++ Programming Guide, technical specifications)."""
REGISTERS = 65_536
"""Of a multiprocessor, all of these cards; a block needs its own for every thread."""
POINTERS = {
    "logits": "*fp32", "row_base": "*i32", "row_weights": "*fp32", "column_base": "*i32", "column_weights": "*fp32",
    "counts": "*i32", "boxes": "*i32",
}  # fmt: skip
SIZES = {"low_side": "i32", "height": "i32", "width": "i32"}
THRESHOLDS = {"low": "fp32", "mid": "fp32", "high": "fp32"}
TILE = {"ROWS": kernels._ROWS, "COLUMNS": kernels._COLUMNS}


@pytest.fixture(autouse=True)
def no_kernel_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled earlier must not stand in for the compiler."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


def compiled(kernel: Any, capability: int, constants: Mapping[str, int], **options: int) -> Any:
    """As a launch compiles it: torch's pointers and SAM's 256 are multiples of 16, an image's sides are anything."""
    types = {**POINTERS, **SIZES, **THRESHOLDS, **TILE}
    signature = {name: "constexpr" if name in constants else kind for name, kind in types.items()}
    aligned = [*POINTERS, "low_side"]
    hints = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(kernel, signature, dict(constants), hints)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """What the machine code of a kernel takes: ``REG`` per thread, bytes of ``STACK``, ``SHARED`` and ``LOCAL`` (spilled)."""
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return {name: int(number) for name, number in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", said)}


@pytest.mark.parametrize("capability", sorted(SHARED_BYTES))
def test_the_kernel_compiles_for_every_card_and_fits_it(capability: int, tmp_path: Path) -> None:
    made = compiled(kernels._measure, capability, TILE)
    assert re.search(rf"^\.target sm_{capability}a?$", made.asm["ptx"], re.MULTILINE)
    assert ".f64" not in made.asm["ptx"], "a float64 crept in: these cards compute it 32 to 64 times slower"
    assert made.asm["cubin"][:4] == b"\x7fELF"
    takes = resources(made.asm["cubin"], tmp_path)
    assert takes["STACK"] == takes["LOCAL"] == 0, f"registers are spilled to memory: {takes}"
    assert takes["REG"] * 32 * made.metadata.num_warps <= REGISTERS
    assert max(takes["SHARED"], made.metadata.shared) <= SHARED_BYTES[capability]


def test_an_image_of_one_pixel_compiles_too() -> None:
    """Triton makes a constant of every size that is 1."""
    assert compiled(kernels._measure, 86, {**TILE, "height": 1, "width": 1}).asm["cubin"]


def test_spilled_registers_are_seen(tmp_path: Path) -> None:
    """With too few registers: the figures that the test above asks of every card are not always zero."""
    takes = resources(compiled(kernels._measure, 86, TILE, maxnreg=24).asm["cubin"], tmp_path)
    assert takes["STACK"] + takes["LOCAL"] > 0


@triton.jit
def _wrong(
    logits, row_base, row_weights, column_base, column_weights, counts, boxes, low_side, height, width, low, mid, high,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    tl.store(counts, tl.load(logits + tl.arange(0, ROWS - 1)))  # not a power of two


def test_a_kernel_that_does_not_compile_is_seen() -> None:
    with pytest.raises(triton.CompilationError, match="power of 2"):
        compiled(_wrong, 86, TILE)
