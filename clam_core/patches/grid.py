# SPDX-License-Identifier: Apache-2.0
"""Where patches lie: a grid per piece of tissue or one for the slide, thinned to what is tissue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.errors import ParameterError
from clam_core.patches.inside import RowCrossings, locate_points
from clam_core.tissue import Contour, Piece

Coordinates = NDArray[np.int64]
"""Top-left corners of patches, (N, 2), (x, y), level-0 pixels."""

BLOCK_POINTS = 1 << 20
"""Grid points looked at together: what bounds the memory on a large slide."""


class ContourRule(Enum):
    """Which points of a patch must lie in the tissue."""

    BASIC = "basic"
    """The top-left corner."""
    CENTER = "center"
    """The centre."""
    FOUR_PT = "four_pt"
    """Any of four points around the centre."""
    FOUR_PT_HARD = "four_pt_hard"
    """All of four points around the centre."""


@dataclass(frozen=True)
class PatchGrid:
    """The geometry of a grid of patches; everything in level-0 pixels.

    Parameters
    ----------
    patch
        (width, height) of a patch.
    step
        Distance of neighbours, (x, y).
    rule
        When a patch belongs to a piece of tissue.
    shift
        Distance of the four points from the centre, as a fraction of half a patch; 0 tests the centre alone.
    padding
        Whether patches may reach over the edges of the tissue's box and of the slide.
    origin
        Where the grid starts, (x, y), for all pieces together; None: at each piece's own box, as in the
        reference. With an origin an outline that differs by a pixel moves no patch, and no patch repeats.
    """

    patch: tuple[int, int]
    step: tuple[int, int]
    rule: ContourRule = ContourRule.FOUR_PT
    shift: float = 0.5
    padding: bool = True
    origin: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if min(*self.patch, *self.step) < 1:
            raise ParameterError("Patches and the steps between them must be at least one pixel wide.")

    def test_points(self) -> list[tuple[int, int]]:
        """Return the points of a patch that are looked up in the tissue, relative to its corner."""
        center_x, center_y = self.patch[0] // 2, self.patch[1] // 2
        shift_x, shift_y = int(center_x * self.shift), int(center_y * self.shift)
        if self.rule is ContourRule.BASIC:
            return [(0, 0)]
        if self.rule is ContourRule.CENTER or shift_x == 0:
            return [(center_x, center_y)]
        return [(center_x + sx * shift_x, center_y + sy * shift_y) for sx in (-1, 1) for sy in (-1, 1)]


def patch_coordinates(pieces: Sequence[Piece], slide_size: tuple[int, int], grid: PatchGrid) -> Coordinates:
    """Return the patches on tissue: piece by piece, within a piece column by column.

    Each grid starts at the top-left corner of its piece's bounding box. With an origin there is one grid, and
    its patches come column by column. A patch whose centre lies strictly inside a hole is left out.

    Parameters
    ----------
    pieces
        Pieces of tissue, level-0 pixels.
    slide_size
        (width, height) of level 0.
    grid
        Size, step and rule.
    """
    blocks = [block for piece in pieces for block in _piece_blocks(piece, slide_size, grid)]
    found = np.concatenate(blocks) if blocks else np.empty((0, 2), dtype=np.int64)
    return found if grid.origin is None else np.unique(found, axis=0)


def _piece_blocks(piece: Piece, slide_size: tuple[int, int], grid: PatchGrid) -> Iterator[Coordinates]:
    columns, rows = _axes(piece.outline, slide_size, grid)
    if len(columns) == 0 or len(rows) == 0:
        return
    tests = grid.test_points()
    lines = np.unique(np.concatenate([rows + dy for _, dy in tests]))
    crossings = RowCrossings(piece.outline, lines)
    width = max(1, BLOCK_POINTS // len(rows))
    for first in range(0, len(columns), width):
        block = columns[first : first + width]
        hits = [_hits(crossings, block + dx, np.searchsorted(lines, rows + dy)) for dx, dy in tests]
        combine = np.logical_and if grid.rule is ContourRule.FOUR_PT_HARD else np.logical_or
        x, y = np.nonzero(combine.reduce(hits))
        found = np.stack([block[x], rows[y]], axis=1)
        yield found[~_in_holes(found, piece.holes, grid.patch)]


def _axes(outline: Contour, slide_size: tuple[int, int], grid: PatchGrid) -> tuple[NDArray[np.int64], ...]:
    left, top, width, height = cv2.boundingRect(outline)
    axes = []
    for axis, (start, length) in enumerate(((left, width), (top, height))):
        patch, step = grid.patch[axis], grid.step[axis]
        first = start if grid.origin is None else _first_touching(start, patch, step, grid.origin[axis])
        stop = start + length if grid.padding else min(start + length, slide_size[axis] - patch + 1)
        axes.append(np.arange(first, stop, step, dtype=np.int64))
    return tuple(axes)


def _first_touching(start: int, patch: int, step: int, origin: int) -> int:
    """Return the first place of a grid, not before its origin, whose patch reaches beyond `start`."""
    return origin + max(0, (start - patch - origin) // step + 1) * step


def _hits(crossings: RowCrossings, x: NDArray[np.int64], row: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell for every x in every row whether it lies inside or on the outline, (len(x), len(row))."""
    shape = (len(x), len(row))
    hits = crossings.locate(np.broadcast_to(x[:, None], shape), np.broadcast_to(row, shape)) >= 0
    return np.asarray(hits)


def _in_holes(corners: Coordinates, holes: Sequence[Contour], patch: tuple[int, int]) -> NDArray[np.bool_]:
    inside = np.zeros(len(corners), dtype=np.bool_)
    # Doubled, because the centre of a patch of odd width lies between two pixels.
    doubled_centers = 2 * corners + np.asarray(patch)
    for hole in holes:
        doubled = 2 * hole.astype(np.int64)
        near = ((doubled_centers > doubled.min(axis=0)) & (doubled_centers < doubled.max(axis=0))).all(axis=1)
        if near.any():
            inside[near] |= locate_points(doubled, doubled_centers[near]) > 0
    return inside
