"""Polygons that reproduce a mask when they are painted as LISA paints ReasonSeg's polygons."""

import cv2
import numpy as np
from numpy.typing import NDArray

SMALLEST_PX = 8  # smaller regions and holes are left out, as they are artefacts of the rasterisation


def polygons(mask: NDArray[np.bool_]) -> list[list[list[float]]]:
    """One polygon (x, y in px) per connected region of the mask, bool [H, W].

    A hole is joined to its outline by a line traversed in both directions, so that `cv2.fillPoly` (even-odd) leaves it open.
    """
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for index, contour in enumerate(contours):
        outer = contour[:, 0].astype(np.int64)
        if hierarchy[0][index][3] >= 0 or _filled_px(outer) < SMALLEST_PX:
            continue
        holes = [contours[i][:, 0].astype(np.int64) for i in range(len(contours)) if hierarchy[0][i][3] == index]
        for hole in sorted(holes, key=lambda points: (int(points[:, 0].min()), int(points[:, 1].min()))):
            if cv2.contourArea(hole.astype(np.int32)) >= SMALLEST_PX:
                outer = _joined(outer, hole)
        found.append([[float(x), float(y)] for x, y in outer])
    return found


def _filled_px(points: NDArray[np.int64]) -> int:
    low = points.min(0)
    canvas = np.zeros(tuple((points.max(0) - low + 1)[::-1]), np.uint8)
    return int(cv2.fillPoly(canvas, [(points - low).astype(np.int32)], 1).sum())


def _joined(outer: NDArray[np.int64], hole: NDArray[np.int64]) -> NDArray[np.int64]:
    """Outline, the shortest line between two corners to the hole, around the hole, and the same line back."""
    distances = ((outer[:, None] - hole[None]) ** 2).sum(2)
    i, j = np.unravel_index(int(distances.argmin()), distances.shape)
    around = np.concatenate([hole[j:], hole[: j + 1]])
    return np.concatenate([outer[: i + 1], around, outer[i:]])
