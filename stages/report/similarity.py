"""How alike the mask embeddings of a split are, before and after centring: mean pairwise cosine and a heat map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from store.format.arrays import AnyArray

Matrix = npt.NDArray[np.float64]


def cosines(vectors: AnyArray) -> Matrix:
    """Cosine of every pair of ``vectors`` [n, D]; a zero vector has cosine 0 with every vector."""
    values = vectors.astype(np.float64)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return np.asarray(unit @ unit.T)


def mean_pairwise(similarity: Matrix) -> float:
    """Mean cosine over the pairs of different vectors; NaN for fewer than two."""
    count = len(similarity)
    if count < 2:
        return float("nan")
    return float((similarity.sum() - np.trace(similarity)) / (count * (count - 1)))


def draw_heat_maps(before: Matrix, after: Matrix, title: str, path: Path) -> None:
    """Write a PNG with both similarity matrices side by side, on one colour scale from -1 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for axis, matrix, name in zip(axes, (before, after), ("as embedded", "minus the train mean"), strict=True):
        image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axis.set_title(f"{name}: mean pairwise cosine {mean_pairwise(matrix):.3f}")
        axis.set_xlabel("mask")
        axis.set_ylabel("mask")
    figure.colorbar(image, ax=axes, label="cosine similarity")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # the existing file may be a link into DVC's cache
    figure.savefig(path, dpi=100, metadata={"Software": None})
