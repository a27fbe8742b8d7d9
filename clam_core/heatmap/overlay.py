# SPDX-License-Identifier: Apache-2.0
"""Attention as a transparent picture that a viewer can lay over the slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clam_core.heatmap.colormaps import colors
from clam_core.slides import Pixels
from clam_core.tissue import Piece, fill_pieces

COLOR_MAP = "attention"
"""Blue through green and yellow to red: hues that eosin and haematoxylin do not have lie in between."""

FAINTEST, STRONGEST = 0.12, 0.52
"""Opacity of the least and of the most attended patches: the slide stays readable under both."""


FIXED_POINT = 1_000_000
"""Scores are added up as whole millionths: exact, whatever the order."""


@dataclass(frozen=True)
class ScoreMap:
    """Scores of patches as a picture of the whole slide.

    Parameters
    ----------
    values
        Mean score over each pixel, 0 to 100; (height, width) float32.
    covered
        Where there is tissue and a patch that was scored, (height, width).
    downsample
        Level-0 pixels per pixel, (x, y).
    """

    values: NDArray[np.float32]
    covered: NDArray[np.bool_]
    downsample: tuple[float, float]


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
    factor = max(1.0, max(slide_size) / longest_side)
    size = (max(1, round(slide_size[0] / factor)), max(1, round(slide_size[1] / factor)))
    downsample = (slide_size[0] / size[0], slide_size[1] / size[1])
    boxes = np.concatenate([coordinates, coordinates + np.asarray(footprint)], axis=1)
    boxes = np.rint(boxes / np.asarray(downsample * 2)).astype(np.int64)
    # A patch smaller than a pixel still leaves its mark.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    boxes = np.clip(boxes, 0, np.asarray(size * 2))
    count = _sum_of_boxes(boxes, np.ones(len(boxes), dtype=np.int32), size)
    # Half the width is half the time, and sums wrap around until the last one, which must fit.
    fits = int(count.max(initial=0)) * 100 * FIXED_POINT < np.iinfo(np.int32).max
    fixed = np.rint(scores * FIXED_POINT).astype(np.int32 if fits else np.int64)
    values = _sum_of_boxes(boxes, fixed, size).astype(np.float32)
    values /= np.maximum(count, 1) * np.float32(FIXED_POINT)
    covered = (count > 0) & (fill_pieces(pieces, size, downsample) > 0)
    return ScoreMap(values, covered, downsample)


def _sum_of_boxes(
    boxes: NDArray[np.int64], values: NDArray[np.signedinteger], size: tuple[int, int]
) -> NDArray[np.signedinteger]:
    """Return the sum of the values of all boxes over each pixel, (height, width).

    Each box changes the picture at its four corners only; running sums along both axes fill it. Millions of
    patches take no longer than the picture is large, and integers make it exact.
    """
    width, height = size
    flat = np.zeros((height + 1) * (width + 1), dtype=values.dtype)
    left, top, right, bottom = boxes.T
    for rows, columns, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        np.add.at(flat, rows * (width + 1) + columns, sign * values)
    changes = flat.reshape(height + 1, width + 1)
    np.cumsum(changes, axis=0, dtype=changes.dtype, out=changes)
    np.cumsum(changes, axis=1, dtype=changes.dtype, out=changes)
    return changes[:height, :width]


def paint(scores: ScoreMap, cmap: str = COLOR_MAP) -> Pixels:
    """Return a score map as colours, the fainter the less attended, transparent where nothing was scored.

    Returns
    -------
    numpy.ndarray
        RGBA, uint8, (height, width, 4); not premultiplied.
    """
    steps = np.arange(256) / 255
    table = np.zeros((257, 4), dtype=np.uint8)
    table[1:, :3] = colors(steps, cmap)
    table[1:, 3] = np.rint((FAINTEST + (STRONGEST - FAINTEST) * steps) * 255)
    # Entry 0 is transparent, 1 to 256 are the scores.
    index = (scores.values * np.float32(255 / 100)).astype(np.uint16) + 1
    index *= scores.covered
    return np.take(table, index, axis=0)
