# SPDX-License-Identifier: Apache-2.0
"""From level-0 pixels to millimetres on the slide, and to the pixels of another level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from highdicom.spatial import ImageToReferenceTransformer
from numpy.typing import NDArray
from pydicom import Dataset

from .prediction import TopPatch
from .source import matrix_size

QUANTUM = 0.01
"""One step of the map, in percentile points; 0 is kept for what was not analysed."""

STEPS = 10_000


@dataclass(frozen=True)
class Attention:
    """Attention over the slide.

    Attributes
    ----------
    coordinates
        Top-left corners in level-0 pixels, (N, 2), (x, y).
    patch_size
        (width, height) of a patch in level-0 pixels.
    percentiles
        Rank of each patch's attention within the slide, (N,), 0 to 100.
    is_share
        Whether a patch's attention is its share of the slide's; False where the model has none and it is the
        probability of the predicted class in the patch alone.
    """

    coordinates: NDArray[np.generic]
    patch_size: tuple[float, float]
    percentiles: NDArray[np.float64]
    is_share: bool = True


def rectangle_mm(header: Dataset, patch: TopPatch) -> NDArray[np.float64]:
    """Return the outline of a patch in the slide's frame of reference, cut off at the slide's edge.

    Returns
    -------
    numpy.ndarray
        (5, 3), millimetres; the last point is the first one again, as SCOORD3D polygons want it.
    """
    width, height = matrix_size(header)
    left, top = max(patch.x, 0), max(patch.y, 0)
    right, bottom = min(patch.x + patch.width, width), min(patch.y + patch.height, height)
    corners = np.array(
        [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], dtype=np.float64
    )
    # Image coordinates: (0, 0) is the corner of the first pixel, its centre is (0.5, 0.5).
    transform = ImageToReferenceTransformer.for_image(header, for_total_pixel_matrix=True)
    return np.asarray(transform(corners), dtype=np.float64)


def smallest_level(levels: Sequence[Dataset], patch_size: tuple[float, float], pixels: int) -> int:
    """Return the smallest level on which a patch is still so many pixels wide and high, as an index.

    Level 0 where a patch is smaller everywhere.
    """
    width0, height0 = matrix_size(levels[0])
    fitting = [
        index
        for index, (width, height) in enumerate(matrix_size(level) for level in levels)
        if width
        and height
        and patch_size[0] * width >= pixels * width0
        and patch_size[1] * height >= pixels * height0
    ]
    return max(fitting, default=0)


def stored_values(percentiles: NDArray[np.generic]) -> NDArray[np.uint16]:
    """Return percentiles as the map stores them: 1 for 0, 10001 for 100."""
    steps = np.rint(np.clip(percentiles.astype(np.float64), 0, 100) / QUANTUM)
    return (steps + 1).astype(np.uint16)


def draw_map(attention: Attention, slide_size: tuple[int, int], size: tuple[int, int]) -> NDArray[np.uint16]:
    """Paint every patch onto the pixels whose centres it covers.

    Parameters
    ----------
    attention
        Patches on level 0.
    slide_size, size
        (width, height) of level 0 and of the map.

    Returns
    -------
    numpy.ndarray
        (height, width); 0 where no patch lies. Where patches overlap, the highest value stands.
    """
    scale = np.array(size, dtype=np.float64) / np.array(slide_size, dtype=np.float64)
    corners = attention.coordinates.astype(np.float64)
    # A centre k + 0.5 lies in [a, b) exactly for ceil(a - 0.5) <= k < ceil(b - 0.5): patches that touch on
    # level 0 neither overlap nor leave a gap here.
    first = np.ceil(corners * scale - 0.5).astype(np.int64)
    last = np.ceil((corners + attention.patch_size) * scale - 0.5).astype(np.int64)
    first, last = np.clip(first, 0, size), np.clip(last, 0, size)
    picture = np.zeros((size[1], size[0]), dtype=np.uint16)
    values = stored_values(attention.percentiles)
    for (left, top), (right, bottom), value in zip(first.tolist(), last.tolist(), values, strict=True):
        spot = picture[top:bottom, left:right]
        np.maximum(spot, value, out=spot)
    return picture
