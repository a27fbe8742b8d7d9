# SPDX-License-Identifier: Apache-2.0
"""Tissue on a slide, as the reference CLAM finds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.slides import Slide, best_level_for_downsample
from clam_core.tissue.contours import Contour, Piece, find_pieces
from clam_core.tissue.mask import saturation, tissue_mask
from clam_core.tissue.presets import TissueParameters

PATCHING_DOWNSAMPLE = 64
"""The reference's target when it patches slides."""
HEATMAP_DOWNSAMPLE = 32
"""The reference's target when it draws heatmaps."""
MAXIMUM_MASK_PIXELS = 10**8
"""The reference refuses larger levels; here they are shrunk while they are read."""


@dataclass(frozen=True)
class Tissue:
    """The pieces of tissue on a slide.

    Parameters
    ----------
    pieces
        Outlines and holes in level-0 pixels; empty where there is no tissue.
    level
        Level that was segmented.
    downsample
        Level-0 pixels per pixel of `mask`, (x, y).
    mask
        255 where pixels look like tissue, before any piece was dropped, (height, width).
    """

    pieces: tuple[Piece, ...]
    level: int
    downsample: tuple[float, float]
    mask: NDArray[np.uint8]

    @property
    def contours(self) -> tuple[Contour, ...]:
        """The outlines, level-0 pixels."""
        return tuple(piece.outline for piece in self.pieces)

    @property
    def holes(self) -> tuple[tuple[Contour, ...], ...]:
        """The holes of each outline, level-0 pixels."""
        return tuple(piece.holes for piece in self.pieces)

    @property
    def area_px(self) -> float:
        """Area of all pieces without their holes, in level-0 pixels."""
        height, width = self.mask.shape
        filled = fill_pieces(self.pieces, (width, height), self.downsample)
        return float(np.count_nonzero(filled)) * self.downsample[0] * self.downsample[1]

    def area_mm2(self, mpp: tuple[float, float]) -> float:
        """Area of all pieces without their holes, in square millimetres."""
        return self.area_px * mpp[0] * mpp[1] / 1e6


def segment(slide: Slide, parameters: TissueParameters, level: int | None = None) -> Tissue:
    """Find the tissue on a slide; none is an answer.

    Parameters
    ----------
    slide
        The slide.
    parameters
        Thresholds and smallest areas, for example from `clam_core.tissue.preset`.
    level
        Level to look at; None: the best for a downsample of 64.

    Raises
    ------
    SlideError
        If the level cannot be read.
    """
    if level is None:
        level = best_level_for_downsample(slide.levels, PATCHING_DOWNSAMPLE)
    chosen = slide.levels[level]
    shrink = math.ceil(math.sqrt(chosen.pixels / MAXIMUM_MASK_PIXELS))
    downsample = (chosen.downsample[0] * shrink, chosen.downsample[1] * shrink)
    mask = tissue_mask(saturation(slide, level, shrink), parameters)
    return Tissue(find_pieces(mask, downsample, parameters), level, downsample, mask)


def fill_pieces(
    pieces: Sequence[Piece],
    size: tuple[int, int],
    downsample: tuple[float, float],
    offset: tuple[int, int] = (0, 0),
) -> NDArray[np.uint8]:
    """Draw pieces of tissue as a mask.

    Parameters
    ----------
    pieces
        Outlines and holes, level-0 pixels.
    size
        (width, height) of the mask.
    downsample
        Level-0 pixels per pixel of the mask, (x, y).
    offset
        What lies at the mask's top-left corner, (x, y), in pixels of the mask.

    Returns
    -------
    numpy.ndarray
        1 in tissue, else 0; uint8, (height, width).
    """
    filled = np.zeros((size[1], size[0]), dtype=np.uint8)
    scale = 1 / np.asarray(downsample)
    shift = np.asarray(offset)

    def scaled(contour: Contour) -> Contour:
        return np.asarray((contour * scale).astype(np.int32) - shift, dtype=np.int32)

    # Largest first: an island inside a hole is drawn after the hole was cut.
    for piece in sorted(pieces, key=lambda piece: cv2.contourArea(piece.outline), reverse=True):
        cv2.drawContours(filled, [scaled(piece.outline)], -1, 1, cv2.FILLED)
        if piece.holes:
            cv2.drawContours(filled, [scaled(hole) for hole in piece.holes], -1, 0, cv2.FILLED)
    return filled
