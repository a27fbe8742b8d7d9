# SPDX-License-Identifier: Apache-2.0
"""The stages of an analysis, and how far along the whole each of them is."""

from __future__ import annotations

from dataclasses import dataclass

STAGES: dict[str, tuple[float, str]] = {
    "open": (0.02, "opening the slide"),
    "model": (0.0, "loading the model"),
    "tissue": (0.05, "finding tissue"),
    "patches": (0.02, "laying patches"),
    "encode": (0.81, "encoding patches"),
    "predict": (0.02, "predicting"),
    "heatmap": (0.05, "drawing the heatmap"),
    "dicom": (0.01, "writing DICOM results"),
    "publish": (0.02, "sending the result"),
}
"""Stages in their order: share of the whole, and words for a person."""


@dataclass(frozen=True)
class Position:
    """How far the work is.

    Attributes
    ----------
    stage
        Name of the stage, such as ``encode``.
    progress
        Share of the whole work that is done, in [0, 1].
    detail
        A few words for a person.
    """

    stage: str = "open"
    progress: float = 0.0
    detail: str = ""


def position_in(stage: str, fraction: float, detail: str = "") -> Position:
    """Return the position at `fraction` of `stage`; a stage that is not listed counts nothing."""
    done = 0.0
    for name, (share, _) in STAGES.items():
        if name == stage:
            return Position(stage, min(1.0, done + share * min(max(fraction, 0.0), 1.0)), detail)
        done += share
    return Position(stage, 0.0, detail)


def words(stage: str) -> str:
    """Return what a person reads for a stage."""
    return STAGES[stage][1] if stage in STAGES else stage
