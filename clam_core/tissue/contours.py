# SPDX-License-Identifier: Apache-2.0
"""From a tissue mask to pieces of tissue and their holes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clam_core.tissue.presets import TissueParameters

Contour = NDArray[np.int32]
"""A closed polygon, (n, 2), (x, y)."""

_PARENT = 3
"""Column of OpenCV's contour hierarchy that holds the enclosing contour, or -1."""


@dataclass(frozen=True)
class Piece:
    """One piece of tissue and the holes in it."""

    outline: Contour
    holes: tuple[Contour, ...]


def find_pieces(
    mask: NDArray[np.uint8],
    downsample: tuple[float, float],
    parameters: TissueParameters,
    square: float,
    center: float = 0.0,
) -> tuple[Piece, ...]:
    """Return the pieces of tissue in a mask, in level-0 pixels (truncated).

    Parameters
    ----------
    mask
        Not 0 where there is tissue, (height, width).
    downsample
        Level-0 pixels per pixel of the mask, (x, y).
    parameters
        Smallest areas, number of holes, and which pieces to keep.
    square
        The unit of the parameters' areas, in pixels of the mask.
    center
        Where in a pixel of the mask the outlines run: 0 through its top-left corner, 0.5 through its centre.
    """
    traced, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if not traced:
        return ()
    found = [np.asarray(contour, dtype=np.int32) for contour in traced]
    parents = hierarchy[0, :, _PARENT]
    children: dict[int, list[Contour]] = {}
    for contour, parent in zip(found, parents, strict=True):
        children.setdefault(int(parent), []).append(contour)
    pieces = [
        Piece(
            _to_level_0(contour, downsample, center),
            tuple(
                _to_level_0(hole, downsample, center)
                for hole in _holes_to_keep(children.get(index, []), square, parameters)
            ),
        )
        for index, contour in enumerate(found)
        if parents[index] == -1 and _is_large(contour, children.get(index, []), square, parameters)
    ]
    return _chosen(pieces, parameters)


def _is_large(
    contour: Contour, holes: Sequence[Contour], square: float, parameters: TissueParameters
) -> bool:
    area = cv2.contourArea(contour) - sum(cv2.contourArea(hole) for hole in holes)
    return bool(area != 0 and area > parameters.minimum_area * square)


def _holes_to_keep(holes: Sequence[Contour], square: float, parameters: TissueParameters) -> list[Contour]:
    largest = sorted(holes, key=cv2.contourArea, reverse=True)[: parameters.maximum_holes]
    return [hole for hole in largest if cv2.contourArea(hole) > parameters.minimum_hole_area * square]


def _to_level_0(contour: Contour, downsample: tuple[float, float], center: float) -> Contour:
    scaled: Contour = ((contour.reshape(-1, 2) + center) * np.asarray(downsample)).astype(np.int32)
    return scaled


def _chosen(pieces: Sequence[Piece], parameters: TissueParameters) -> tuple[Piece, ...]:
    kept = set(parameters.keep_contours or range(len(pieces))) - set(parameters.exclude_contours)
    return tuple(piece for index, piece in enumerate(pieces) if index in kept)
