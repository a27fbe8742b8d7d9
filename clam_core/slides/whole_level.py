# SPDX-License-Identifier: Apache-2.0
"""Whole levels read piece by piece, so that memory does not grow with the slide."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from clam_core.slides.slide import Pixels, Slide, best_level_for_downsample

STRIP_PIXELS = 1 << 24
"""Pixels read at once: 48 MB of RGB, whatever the size of the level."""


def strips(slide: Slide, level: int, shrink: int = 1) -> Iterator[tuple[int, Pixels]]:
    """Yield a level from top to bottom.

    Parameters
    ----------
    slide
        The slide.
    level
        Its level to read.
    shrink
        Averages squares of so many pixels a side; the ragged right and bottom edges are left out.

    Yields
    ------
    top : int
        First row of the strip, in shrunk pixels.
    rgb : numpy.ndarray
        uint8, (rows, width // shrink, 3).
    """
    chosen = slide.levels[level]
    width, height = chosen.width // shrink, chosen.height // shrink
    rows = max(1, STRIP_PIXELS // (chosen.width * shrink))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        location = (0, round(top * shrink * chosen.downsample[1]))
        rgb = slide.read_region(location, level, (width * shrink, (bottom - top) * shrink))
        if shrink > 1:
            rgb = np.asarray(cv2.resize(rgb, (width, bottom - top), interpolation=cv2.INTER_AREA), np.uint8)
        yield top, rgb


def thumbnail(slide: Slide, longest_side: int) -> Pixels:
    """Return the whole slide as a small picture.

    Parameters
    ----------
    slide
        The slide.
    longest_side
        In pixels; a smaller slide is not enlarged.

    Returns
    -------
    numpy.ndarray
        RGB, uint8, (height, width, 3).
    """
    base = slide.levels[0]
    factor = max(1.0, max(base.width, base.height) / longest_side)
    size = (max(1, round(base.width / factor)), max(1, round(base.height / factor)))
    level = best_level_for_downsample(slide.levels, factor)
    chosen = slide.levels[level]
    shrink = max(1, min(chosen.width // size[0], chosen.height // size[1]))
    rough = np.concatenate([rgb for _, rgb in strips(slide, level, shrink)])
    if (rough.shape[1], rough.shape[0]) == size:
        return rough
    return np.asarray(cv2.resize(rough, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
