# SPDX-License-Identifier: Apache-2.0
"""The slow and obvious way, one point or patch after the other: what the fast one must equal, and beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from clam_core.patches import ContourRule, PatchGrid
from clam_core.tissue import Contour, Piece


def patches_one_by_one(
    pieces: Sequence[Piece], slide_size: tuple[int, int], grid: PatchGrid
) -> list[tuple[int, int]]:
    """Return the patches of grids that start at their pieces, by OpenCV's test of every point."""
    found = []
    for piece in pieces:
        columns, rows = grid_lines(piece.outline, slide_size, grid)
        found += patches_of_columns(piece, columns, rows, grid)
    return found


def grid_lines(
    outline: Contour, slide_size: tuple[int, int], grid: PatchGrid
) -> tuple[Sequence[int], Sequence[int]]:
    """Return the left edges and the top edges of the patches over a piece's box."""
    left, top, width, height = cv2.boundingRect(outline)
    lines = []
    for axis, (start, length) in enumerate(((left, width), (top, height))):
        stop = start + length
        if not grid.padding:
            stop = min(stop, slide_size[axis] - grid.patch[axis] + 1)
        lines.append(range(start, stop, grid.step[axis]))
    return lines[0], lines[1]


def patches_of_columns(
    piece: Piece, columns: Iterable[int], rows: Iterable[int], grid: PatchGrid
) -> list[tuple[int, int]]:
    """Walk over columns, then rows, and stop at the first point of a patch that decides."""
    outline = piece.outline.reshape(-1, 1, 2)
    holes = [hole.reshape(-1, 1, 2) for hole in piece.holes]
    offsets = grid.test_points()
    decide = all if grid.rule is ContourRule.FOUR_PT_HARD else any
    half = (grid.patch[0] / 2, grid.patch[1] / 2)
    return [
        (x, y)
        for x in columns
        for y in rows
        if decide(cv2.pointPolygonTest(outline, (x + dx, y + dy), False) >= 0 for dx, dy in offsets)
        and not any(cv2.pointPolygonTest(hole, (x + half[0], y + half[1]), False) > 0 for hole in holes)
    ]


def percentile_of(score: float, scores: np.ndarray) -> float:
    """Return the average rank of one score among all, in percent."""
    below, up_to = int((scores < score).sum()), int((scores <= score).sum())
    return (below + up_to + (up_to > below)) * 50 / len(scores)


def painted_one_by_one(
    corners: np.ndarray, scores: np.ndarray, patch: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Add each patch's score to a canvas (height, width), and take the mean where patches overlap."""
    total, covered = np.zeros(size[::-1]), np.zeros(size[::-1], dtype=np.uint16)
    for (x, y), score in zip(corners, scores, strict=True):
        total[y : y + patch[1], x : x + patch[0]] += score
        covered[y : y + patch[1], x : x + patch[0]] += 1
    return total / np.maximum(covered, 1)
