# SPDX-License-Identifier: Apache-2.0
"""What the reference's pixels mean on the glass.

The reference segments the level that is best for a downsample, so that its answer depends on the pyramid: the
same glass had 0.64 mm2 of tissue as a single level, and 1.6 mm2 with levels added. Here a pixel has the same
size on the glass whatever levels there are.

The reference's presets count in pixels: kernels in pixels of the level it segments, areas in squares of
512 x 512 pixels of level 0. On a usual slide of its time these are:

* the level: 0.25 um/px with levels 1, 4, 16 and 32, or 0.5 um/px with 1, 4 and 16. The coarsest level up to
  its target of 64 has 8 um/px either way, and its kernels are so many times 8 um;
* the square: 512 pixels of 0.25 um (40x, what the presets were made for), 128 um a side.

The number of holes per piece has no physical meaning, and a piece that frames the field of view has its glass
in holes: here all that are large enough are cut out.
"""

from __future__ import annotations

import math
from dataclasses import replace

from clam_core.slides import Level
from clam_core.tissue.presets import TissueParameters

TISSUE_MPP = 8.0
"""Micrometres per pixel at which tissue is told from glass."""
USUAL_SQUARE_UM = 128.0
"""Side of the square in which the parameters' areas count, in micrometres."""


def picture_size(base: Level, mpp: tuple[float, float], maximum_pixels: int) -> tuple[int, int]:
    """Return the size of the picture to segment, (width, height).

    Parameters
    ----------
    base
        Level 0; a slide coarser than `TISSUE_MPP` is taken as it is.
    mpp
        Its micrometres per pixel, (x, y).
    maximum_pixels
        Larger pictures, of slides whose spacing is nonsense, are shrunk to it.
    """
    width = base.width / max(1.0, TISSUE_MPP / mpp[0])
    height = base.height / max(1.0, TISSUE_MPP / mpp[1])
    excess = max(1.0, math.sqrt(width * height / maximum_pixels))
    return max(1, round(width / excess)), max(1, round(height / excess))


def fit_parameters(parameters: TissueParameters, spacing: tuple[float, float]) -> TissueParameters:
    """Return parameters whose kernels cover, at a spacing in um/px, (x, y), what they do at `TISSUE_MPP`."""
    # A picture of one pixel may be finer than that: its kernels do not grow.
    scale = min(1.0, TISSUE_MPP / math.sqrt(spacing[0] * spacing[1]))
    return replace(
        parameters,
        median_kernel=2 * round(parameters.median_kernel // 2 * scale) + 1,
        close_kernel=round(parameters.close_kernel * scale),
        maximum_holes=None,
    )
