# SPDX-License-Identifier: Apache-2.0
"""Tissue: which parts of a slide are worth looking at."""

from clam_core.tissue.contours import Contour, Piece
from clam_core.tissue.drawing import fill_pieces, picture_of
from clam_core.tissue.presets import PRESETS, TissueParameters, preset
from clam_core.tissue.segmentation import HEATMAP_DOWNSAMPLE, Tissue, segment, segment_at_mpp

__all__ = [
    "HEATMAP_DOWNSAMPLE",
    "PRESETS",
    "Contour",
    "Piece",
    "Tissue",
    "TissueParameters",
    "fill_pieces",
    "picture_of",
    "preset",
    "segment",
    "segment_at_mpp",
]
