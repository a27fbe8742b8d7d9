# SPDX-License-Identifier: Apache-2.0
"""The stages of an analysis, and how far along the whole each of them is."""

from __future__ import annotations

import math
from dataclasses import dataclass

STAGES: dict[str, tuple[float, str]] = {
    "open": (0.02, "opening the slide"),
    "model": (0.0, "loading the model"),
    "tissue": (0.05, "finding tissue"),
    "patches": (0.02, "laying patches"),
    "known": (0.0, "taking over patches of an earlier run"),
    "wait": (0.0, "waiting for its turn at the encoder"),
    "encode": (0.81, "encoding patches"),
    "predict": (0.02, "predicting"),
    "heatmap": (0.05, "drawing the heatmap"),
    "dicom": (0.01, "writing DICOM results"),
    "publish": (0.02, "sending the result"),
}
"""Stages in their order: share of the whole, and words for a person."""

_AHEAD = frozenset({"open", "model", "tissue", "patches", "known", "wait"})
"""What can be done for a slide while the encoder is at another."""


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
    remaining_s
        Seconds that the stage will still take, or None where nobody knows.
    """

    stage: str = "open"
    progress: float = 0.0
    detail: str = ""
    remaining_s: float | None = None


def position_in(stage: str, fraction: float, detail: str = "", remaining_s: float | None = None) -> Position:
    """Return the position at `fraction` of `stage`; a stage that is not listed counts nothing."""
    done = 0.0
    for name, (share, _) in STAGES.items():
        if name == stage:
            part = min(1.0, done + share * min(max(fraction, 0.0), 1.0))
            return Position(stage, part, detail, remaining_s)
        done += share
    return Position(stage, 0.0, detail, remaining_s)


def is_begun(stage: str) -> bool:
    """Return whether a stage is beyond what is done ahead of a slide's turn: its patches are computed on."""
    return stage not in _AHEAD


def encoder_free_in_s(position: Position) -> float:
    """Return the seconds until the work needs the encoder no more; infinite where nobody knows."""
    if position.stage in _AHEAD:
        return math.inf
    if position.stage == "encode":
        return math.inf if position.remaining_s is None else position.remaining_s
    return 0.0


def words(stage: str) -> str:
    """Return what a person reads for a stage."""
    return STAGES[stage][1] if stage in STAGES else stage
