# SPDX-License-Identifier: Apache-2.0
"""Attention as a transparent picture that a viewer can lay over the slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clam_core.heatmap.colormaps import colors
from clam_core.tissue import Piece, fill_pieces, picture_of

COLOR_MAP = "attention"
"""Blue through green and yellow to red: hues that eosin and haematoxylin do not have lie in between."""

FAINTEST, STRONGEST = 0.12, 0.52
"""Opacity of the least and of the most attended patches: the slide stays readable under both."""


FIXED_POINT = 1_000_000
"""Scores are added up as whole millionths: exact, whatever the order."""

STRIP = 32
"""Rows of cells that are added up at a time."""

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class ScoreMap:
    """Scores of patches as a picture of the whole slide.

    The picture changes only where a patch begins or ends: in between lie cells of one score each. Patches of
    one grid make hardly more cells than patches; the most there can be is one a pixel.

    Parameters
    ----------
    cells
        Mean score of the patches over each cell, 0 to 100, (rows, columns) float32.
    scored
        Whether a patch lies over a cell, (rows, columns).
    heights, widths
        Pixels of each row and each column of cells.
    tissue
        Where there is tissue, (height, width).
    downsample
        Level-0 pixels per pixel, (x, y).
    """

    cells: NDArray[np.float32]
    scored: NDArray[np.bool_]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    tissue: NDArray[np.bool_]
    downsample: tuple[float, float]

    @property
    def values(self) -> NDArray[np.float32]:
        """Mean score over each pixel, 0 where there is none, (height, width)."""
        return self.spread(self.cells)

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Where there is tissue and a patch that was scored, (height, width)."""
        return self.tissue & self.spread(self.scored)

    def spread(self, of_cells: NDArray[_Value]) -> NDArray[_Value]:
        """Return what is given for each cell for each of its pixels, (height, width)."""
        return np.repeat(np.repeat(of_cells, self.widths, axis=1), self.heights, axis=0)


def score_map(
    coordinates: NDArray[np.integer],
    scores: NDArray[np.floating],
    footprint: tuple[int, int],
    pieces: Sequence[Piece],
    slide_size: tuple[int, int],
    longest_side: int,
) -> ScoreMap:
    """Lay the scores of patches out over the slide; where patches overlap, their mean.

    Parameters
    ----------
    coordinates
        Top-left corners, (N, 2), level-0 pixels.
    scores
        (N,), 0 to 100.
    footprint
        (width, height) of a patch, level-0 pixels.
    pieces
        Pieces of tissue: nothing outside them is covered.
    slide_size
        (width, height) of level 0.
    longest_side
        Of the map, in pixels; a smaller slide is not enlarged.
    """
    size, downsample = picture_of(slide_size, longest_side)
    boxes = np.concatenate([coordinates, coordinates + np.asarray(footprint)], axis=1)
    boxes = np.rint(boxes / np.asarray(downsample * 2)).astype(np.int64)
    # A patch smaller than a pixel still leaves its mark.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    boxes = np.clip(boxes, 0, np.asarray(size * 2))
    columns, rows = _edges(boxes[:, 0::2], size[0]), _edges(boxes[:, 1::2], size[1])
    boxes[:, 0::2] = np.searchsorted(columns, boxes[:, 0::2])
    boxes[:, 1::2] = np.searchsorted(rows, boxes[:, 1::2])
    fixed = np.rint(scores * FIXED_POINT).astype(np.int64)
    cells, scored = _means(boxes, fixed, (len(columns) - 1, len(rows) - 1))
    tissue = fill_pieces(pieces, size, downsample).view(np.bool_)
    return ScoreMap(cells, scored, np.diff(rows), np.diff(columns), tissue, downsample)


def _edges(ends: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Return where cells begin along one side of the picture, and where the last one ends."""
    begins = np.zeros(side + 1, dtype=np.bool_)
    begins[[0, side]] = True
    begins[ends.ravel()] = True
    return np.flatnonzero(begins)


def _means(
    boxes: NDArray[np.int64], values: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the mean of the values of all boxes over each cell, and whether there is a box."""
    means = np.zeros((size[1], size[0]), dtype=np.float32)
    scored = np.zeros((size[1], size[0]), dtype=np.bool_)
    counts, sums = _SumsOfBoxes(boxes, np.ones_like(values), size), _SumsOfBoxes(boxes, values, size)
    for top in range(0, size[1], STRIP):
        rows = slice(top, min(top + STRIP, size[1]))
        count, total = counts.next(rows), sums.next(rows)
        np.greater(count, 0, out=scored[rows])
        np.divide(total, count * FIXED_POINT, out=means[rows], where=scored[rows], casting="same_kind")
    return means, scored


class _SumsOfBoxes:
    """The sum of the values of all boxes over each cell, strip by strip from the top.

    Each box changes the sums at its four corners only; running sums along both axes fill it. Millions of
    patches take no longer than there are cells, and integers make it exact. A strip stays in the
    processor's cache while all of this is done to it.
    """

    def __init__(self, boxes: NDArray[np.int64], values: NDArray[np.int64], size: tuple[int, int]) -> None:
        left, top, right, bottom = boxes.T
        rows = np.concatenate([top, bottom, top, bottom])
        columns = np.concatenate([left, right, right, left])
        order = np.argsort(rows, kind="stable")
        self._rows, self._columns = rows[order], columns[order]
        self._changes = np.concatenate([values, values, -values, -values])[order]
        self._above = np.zeros(size[0] + 1, dtype=np.int64)

    def next(self, rows: slice) -> NDArray[np.int64]:
        """Return the sums of the next rows, (rows, width)."""
        first, last = np.searchsorted(self._rows, (rows.start, rows.stop))
        here = slice(int(first), int(last))
        strip = np.zeros((rows.stop - rows.start, len(self._above)), dtype=np.int64)
        np.add.at(strip, (self._rows[here] - rows.start, self._columns[here]), self._changes[here])
        strip[0] += self._above
        np.cumsum(strip, axis=0, out=strip)
        self._above = strip[-1].copy()
        return np.cumsum(strip, axis=1, out=strip)[:, :-1]


def paint(scores: ScoreMap, cmap: str = COLOR_MAP) -> Image.Image:
    """Return a score map as colours, the fainter the less attended, transparent where nothing was scored.

    Returns
    -------
    PIL.Image.Image
        With a palette of RGBA, not premultiplied: a byte a pixel, for as many colours there are.
    """
    steps = np.arange(255) / 254
    palette = np.zeros((256, 4), dtype=np.uint8)
    palette[1:, :3] = colors(steps, cmap)
    palette[1:, 3] = np.rint((FAINTEST + (STRONGEST - FAINTEST) * steps) * 255)
    # Entry 0 is transparent, 1 to 255 are the scores.
    index = (scores.cells * np.float32(254 / 100)).astype(np.uint8) + np.uint8(1)
    index = scores.spread(index * scores.scored)
    index *= scores.tissue
    picture = Image.fromarray(index)
    picture.putpalette(palette.tobytes(), "RGBA")
    return picture
