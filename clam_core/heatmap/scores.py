# SPDX-License-Identifier: Apache-2.0
"""Attention as percentiles, and the patches that stand out."""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

from clam_core.errors import ParameterError

Floats = NDArray[np.float64]


def percentiles(scores: NDArray[np.floating]) -> Floats:
    """Return the rank of each score among all, in percent of their number.

    Equal scores share their average rank; the highest of distinct scores gets 100.

    Parameters
    ----------
    scores
        (N,).
    """
    return percentiles_among(scores, scores)


def percentiles_among(scores: NDArray[np.floating], reference: NDArray[np.floating]) -> Floats:
    """Return the rank of each score within reference scores, in percent of their number.

    (n_less + n_leq + [n_leq > n_less]) * 50 / N: the "rank" kind of a percentile of score.

    Parameters
    ----------
    scores
        (M,).
    reference
        (N,), N > 0.

    Returns
    -------
    numpy.ndarray
        float64, (M,), 0 to 100.
    """
    ordered = np.sort(reference)
    less = np.searchsorted(ordered, scores, "left")
    at_most = np.searchsorted(ordered, scores, "right")
    return np.asarray((less + at_most + (at_most > less)) * 50.0 / len(ordered))


class SampleMode(Enum):
    """Which patches to pick."""

    TOPK = "topk"
    REVERSE_TOPK = "reverse_topk"
    RANGE_SAMPLE = "range_sample"


def sample(
    scores: NDArray[np.floating],
    mode: SampleMode,
    count: int,
    *,
    seed: int = 1,
    score_range: tuple[float, float] = (45, 55),
) -> NDArray[np.intp]:
    """Pick patches by score.

    Parameters
    ----------
    scores
        (N,), 0 to 100 for a range.
    mode
        The highest first, the lowest first, or drawn at random from a range.
    count
        At most so many.
    seed
        Of the draw; numpy's legacy generator, as the reference uses it.
    score_range
        Lowest and highest score of a draw, both included.

    Returns
    -------
    numpy.ndarray
        Indices into `scores`, in the order picked. Equal scores keep their order.

    Raises
    ------
    ParameterError
        If `count` is negative.
    """
    if count < 0:
        raise ParameterError("The number of patches to pick cannot be negative.")
    if mode is SampleMode.TOPK:
        return np.argsort(-scores, kind="stable")[:count]
    if mode is SampleMode.REVERSE_TOPK:
        return np.argsort(scores, kind="stable")[:count]
    within = np.flatnonzero((scores >= score_range[0]) & (scores <= score_range[1]))
    generator = np.random.RandomState(seed)
    return np.asarray(generator.choice(within, min(count, len(within)), replace=False), dtype=np.intp)


def inside_region(
    coordinates: NDArray[np.integer], top_left: tuple[int, int], bottom_right: tuple[int, int]
) -> NDArray[np.bool_]:
    """Tell which patches have their corner in a region, both ends included, (N,)."""
    inside = (coordinates >= np.asarray(top_left)) & (coordinates <= np.asarray(bottom_right))
    return np.asarray(inside.all(axis=1))
