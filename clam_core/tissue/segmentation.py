# SPDX-License-Identifier: Apache-2.0
"""Tissue on a slide: as the reference CLAM finds it, or at a fixed physical resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clam_core.slides import Slide, best_level_for_downsample, level_for_picture
from clam_core.tissue.contours import Contour, Piece, find_pieces
from clam_core.tissue.drawing import fill_pieces
from clam_core.tissue.ink import without_ink
from clam_core.tissue.mask import picture_colors, saturation, tissue_mask
from clam_core.tissue.physical import USUAL_SQUARE_UM, fit_parameters, picture_size
from clam_core.tissue.presets import TissueParameters

REFERENCE_SIDE = 512
"""The reference's areas are in squares of so many level-0 pixels a side."""
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
        Level that was read.
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
    """Find the tissue on a level of a slide, as the reference does; none is an answer.

    What is found depends on the levels that the slide happens to have: `segment_at_mpp` does not.

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
    square = int(REFERENCE_SIDE**2 / (downsample[0] * downsample[1]))
    return Tissue(find_pieces(mask, downsample, parameters, square), level, downsample, mask)


def segment_at_mpp(slide: Slide, parameters: TissueParameters, mpp: tuple[float, float]) -> Tissue:
    """Find the tissue on a picture of the slide at `physical.TISSUE_MPP`; none is an answer.

    The same glass gives the same tissue, whatever levels its slide has and however it was cut into tiles.

    Parameters
    ----------
    slide
        The slide.
    parameters
        As for `segment`; lengths and areas mean what they mean on a usual slide, see
        `clam_core.tissue.physical`.
    mpp
        Micrometres per pixel of level 0, (x, y).

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    base = slide.levels[0]
    size = picture_size(base, mpp, MAXIMUM_MASK_PIXELS)
    downsample = (base.width / size[0], base.height / size[1])
    spacing = (mpp[0] * downsample[0], mpp[1] * downsample[1])
    fitted = fit_parameters(parameters, spacing)
    hue, saturation_ = picture_colors(slide, size)
    mask = tissue_mask(saturation_, fitted)
    square = USUAL_SQUARE_UM**2 / (spacing[0] * spacing[1])
    pieces = find_pieces(mask, downsample, fitted, square, center=0.5)
    colored = saturation_ > fitted.saturation_threshold
    kept = without_ink(pieces, hue, colored, downsample)
    return Tissue(kept, level_for_picture(slide, size), downsample, mask)
