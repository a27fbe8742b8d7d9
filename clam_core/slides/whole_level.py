# SPDX-License-Identifier: Apache-2.0
"""Whole levels read piece by piece, so that memory does not grow with the slide."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from clam_core.slides.slide import Pixels, Slide, best_level_for_downsample

STRIP_PIXELS = 1 << 24
"""Pixels read at once: 48 MB of RGB, whatever the size of the level."""
EQUAL, FINER = 1.03, 1.9
"""A picture is made of a level that is about as coarse, or clearly finer: averaging pixels that are almost as
large as those of the picture blurs it, which lets tissue grow by 2 % (measured; 0.6 % otherwise)."""


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


def picture_strips(slide: Slide, size: tuple[int, int]) -> Iterator[tuple[int, Pixels]]:
    """Yield the whole slide as a picture of a given size, from top to bottom.

    It shows the same whatever levels a slide has, see `level_for_picture`.

    Parameters
    ----------
    slide
        The slide.
    size
        (width, height) of the picture, not larger than level 0.

    Yields
    ------
    top : int
        First row of the strip, in pixels of the picture.
    rgb : numpy.ndarray
        uint8, (rows, width, 3).
    """
    width, height = size
    chosen = slide.levels[level_for_picture(slide, size)]
    ratio = chosen.height / height
    rows = max(1, int(STRIP_PIXELS / (chosen.width * ratio)))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        # Whole rows of the level: at most half a row is counted to the wrong strip.
        first, last = round(top * ratio), round(bottom * ratio)
        location = (0, round(first * chosen.downsample[1]))
        rgb = slide.read_region(location, slide.levels.index(chosen), (chosen.width, last - first))
        yield top, _resized(rgb, (width, bottom - top))


def level_for_picture(slide: Slide, size: tuple[int, int]) -> int:
    """Return the coarsest level of which a picture of the given (width, height) is made well."""
    base = slide.levels[0]
    factor = (base.width / size[0] + base.height / size[1]) / 2
    coarsest = best_level_for_downsample(slide.levels, factor * EQUAL)
    if sum(slide.levels[coarsest].downsample) / 2 * EQUAL >= factor:
        return coarsest
    return best_level_for_downsample(slide.levels, factor / FINER)


def _resized(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    if (rgb.shape[1], rgb.shape[0]) == size:
        return rgb
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


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
    return np.concatenate([rgb for _, rgb in picture_strips(slide, size)])
