# SPDX-License-Identifier: Apache-2.0
"""Heatmaps: what the model looked at, drawn over the slide."""

from clam_core.heatmap.overlay import ScoreMap, paint, score_map
from clam_core.heatmap.picture import Caption, Highlight, compose
from clam_core.heatmap.reference import HeatmapStyle, draw_reference_heatmap, heatmap_grid
from clam_core.heatmap.scores import SampleMode, percentiles, percentiles_among, sample

__all__ = [
    "Caption",
    "HeatmapStyle",
    "Highlight",
    "SampleMode",
    "ScoreMap",
    "compose",
    "draw_reference_heatmap",
    "heatmap_grid",
    "paint",
    "percentiles",
    "percentiles_among",
    "sample",
    "score_map",
]
