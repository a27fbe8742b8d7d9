# SPDX-License-Identifier: Apache-2.0
"""Pen marks on the glass, which are as saturated as tissue and of colours that haematoxylin and eosin lack.

Measured on slides with blue pen and with green ink on the tissue's margin: of a pen mark all coloured pixels
are green to blue, of a piece of tissue with inked margins 2 %, of any other piece at most 16 %. A piece is
therefore judged as a whole, so that margins which a surgeon or a pathologist has inked stay tissue.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.tissue.contours import Piece
from clam_core.tissue.drawing import fill_pieces

INK_HUES = (35, 115)
"""Green to blue, in OpenCV's hue of 0 to 179; haematoxylin lies above 120, eosin above 150."""
INK_SHARE = 0.9
"""Of the coloured pixels of a pen mark."""
STAINED_HUES = (120, 179)
"""Violet to pink: haematoxylin and eosin."""


def without_ink(
    pieces: Sequence[Piece],
    hue: NDArray[np.uint8],
    colored: NDArray[np.bool_],
    downsample: tuple[float, float],
) -> tuple[Piece, ...]:
    """Return the pieces that are no pen marks.

    Only where the rest of the slide is violet to pink: other stains colour tissue green or blue, and tissue
    that is left out is worse than ink that is let in.

    Parameters
    ----------
    pieces
        Level-0 pixels.
    hue
        0 to 179, (height, width).
    colored
        Where the hue means something: pixels above the threshold of saturation, (height, width).
    downsample
        Level-0 pixels per pixel of both.
    """
    hues = [_hues(piece, hue, colored, downsample) for piece in pieces]
    inked = [_share(of_one, INK_HUES) >= INK_SHARE for of_one in hues]
    rest = [of_one for of_one, ink in zip(hues, inked, strict=True) if not ink]
    if not rest or _share(np.concatenate(rest), STAINED_HUES) < 0.5:
        return tuple(pieces)
    return tuple(piece for piece, ink in zip(pieces, inked, strict=True) if not ink)


def _hues(
    piece: Piece, hue: NDArray[np.uint8], colored: NDArray[np.bool_], downsample: tuple[float, float]
) -> NDArray[np.uint8]:
    left, top, width, height = cv2.boundingRect((piece.outline / np.asarray(downsample)).astype(np.int32))
    box = (slice(top, top + height), slice(left, left + width))
    inside = fill_pieces([piece], (width, height), downsample, (left, top)) > 0
    return hue[box][inside & colored[box]]


def _share(hues: NDArray[np.uint8], range_: tuple[int, int]) -> float:
    return float(((hues >= range_[0]) & (hues <= range_[1])).mean()) if len(hues) else 0.0
