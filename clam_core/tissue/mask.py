# SPDX-License-Identifier: Apache-2.0
"""Which pixels of a level are tissue: saturated ones, smoothed."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.slides import Slide, picture_strips, strips
from clam_core.tissue.presets import TissueParameters


def saturation(slide: Slide, level: int, shrink: int = 1) -> NDArray[np.uint8]:
    """Return the HSV saturation of a whole level.

    Parameters
    ----------
    slide
        The slide.
    level
        Its level to read.
    shrink
        Averages squares of so many pixels a side; the ragged right and bottom edges are left out.

    Returns
    -------
    numpy.ndarray
        uint8, (height // shrink, width // shrink).
    """
    chosen = slide.levels[level]
    result = np.empty((chosen.height // shrink, chosen.width // shrink), dtype=np.uint8)
    for top, rgb in strips(slide, level, shrink):
        result[top : top + len(rgb)] = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1]
    return result


def picture_colors(slide: Slide, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return hue and saturation (HSV) of the whole slide as pictures of the given (width, height).

    Returns
    -------
    hue : numpy.ndarray
        0 to 179, uint8, (height, width).
    saturation : numpy.ndarray
        uint8, (height, width).
    """
    hue, saturation_ = np.empty((2, size[1], size[0]), dtype=np.uint8)
    for top, rgb in picture_strips(slide, size):
        hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        hue[top : top + len(rgb)], saturation_[top : top + len(rgb)] = hsv[..., 0], hsv[..., 1]
    return hue, saturation_


def tissue_mask(saturation_: NDArray[np.uint8], parameters: TissueParameters) -> NDArray[np.uint8]:
    """Return 255 where there is tissue and 0 elsewhere, (height, width): blur, threshold, close."""
    blurred = cv2.medianBlur(saturation_, parameters.median_kernel)
    method = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if parameters.use_otsu else 0)
    threshold = 0 if parameters.use_otsu else parameters.saturation_threshold
    mask = cv2.threshold(blurred, threshold, 255, method)[1]
    if parameters.close_kernel > 0:
        kernel = np.ones((parameters.close_kernel, parameters.close_kernel), dtype=np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    return np.asarray(mask, dtype=np.uint8)
