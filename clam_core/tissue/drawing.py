# SPDX-License-Identifier: Apache-2.0
"""Pieces of tissue as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.tissue.contours import Contour, Piece


def picture_of(slide_size: tuple[int, int], longest_side: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return size and downsample, (x, y) each, of a picture of a whole slide.

    Parameters
    ----------
    slide_size
        (width, height) of level 0.
    longest_side
        Of the picture, in pixels; a smaller slide is not enlarged.
    """
    factor = max(1.0, max(slide_size) / longest_side)
    size = (max(1, round(slide_size[0] / factor)), max(1, round(slide_size[1] / factor)))
    return size, (slide_size[0] / size[0], slide_size[1] / size[1])


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
