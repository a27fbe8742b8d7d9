# SPDX-License-Identifier: Apache-2.0
"""What models said of fields that they had not seen, fold by fold, and the figures that follow."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clam_core.training.fields import CLASSES
from clam_core.training.metrics import (
    auc,
    balanced_accuracy,
    bootstrap_auc,
    confusion,
    expected_calibration_error,
    fit_temperature,
    softmax,
)

FOLDS = 5

STUDENT_T = 2.776
"""97.5 % quantile of Student's t with four degrees of freedom: five folds, compared in pairs."""


@dataclass(frozen=True)
class HeldOut:
    """What the models of all folds said of bags they had not seen.

    Attributes
    ----------
    labels, folds
        (B,) of each bag.
    logits
        (B, 2).
    distances
        (B,) of the bag's patches from the training of that fold.
    """

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    logits: NDArray[np.float32]
    distances: NDArray[np.float64]

    def fold_aucs(self) -> list[float]:
        """Return the AUC of each fold."""
        scores = self.logits[:, 1] - self.logits[:, 0]
        picks = [self.folds == fold for fold in range(FOLDS)]
        return [auc(self.labels[pick], scores[pick]) for pick in picks]


def from_scores(labels: NDArray[np.int64], folds: NDArray[np.int64], scores: Sequence[float]) -> HeldOut:
    """Make it of log-odds (B,) alone."""
    odds = np.asarray(scores, dtype=np.float32)
    return HeldOut(labels, folds, np.stack([np.zeros_like(odds), odds], axis=1), np.zeros(len(odds)))


def measured(held_out: HeldOut) -> dict[str, Any]:
    """Return AUC and balanced accuracy of each fold, their mean and spread, and the AUC over all bags."""
    scores = held_out.logits[:, 1] - held_out.logits[:, 0]
    picks = [held_out.folds == fold for fold in range(FOLDS)]
    right = [balanced_accuracy(held_out.labels[pick], (scores[pick] > 0).astype(int)) for pick in picks]
    pooled = bootstrap_auc(held_out.labels, softmax(held_out.logits))
    return {
        "bags": len(scores),
        "auc": spread(held_out.fold_aucs()),
        "balanced_accuracy": spread(right),
        "pooled_auc": {key: round(value, 3) for key, value in asdict(pooled).items()},
        "confusion": confusion(held_out.labels, (scores > 0).astype(int), len(CLASSES)).tolist(),
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and standard deviation over the folds, and each fold's value."""
    return {
        "mean": round(float(np.mean(values)), 3),
        "sd": round(float(np.std(values, ddof=1)), 3),
        "folds": [round(value, 3) for value in values],
    }


def gain(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Compare two rows of folds in pairs.

    Returns
    -------
    dict
        ``mean`` of the differences, ``margin`` (half their 95 % interval by Student's t) and ``beyond``:
        whether that interval leaves out 0.
    """
    differences = np.asarray(ours) - np.asarray(theirs)
    margin = STUDENT_T * differences.std(ddof=1) / np.sqrt(len(differences))
    mean = float(differences.mean())
    return {"mean": round(mean, 3), "margin": round(float(margin), 3), "beyond": bool(abs(mean) > margin)}


def calibrated(held_out: HeldOut) -> tuple[float, dict[str, float]]:
    """Return the temperature over all folds, and the calibration error without and with one.

    The error with a temperature is honest: each fold is scaled with the temperature of the other folds.
    """
    after = np.zeros(held_out.logits.shape)
    for fold in range(FOLDS):
        inside = held_out.folds == fold
        others = fit_temperature(held_out.logits[~inside], held_out.labels[~inside])
        after[inside] = softmax(held_out.logits[inside], others)
    error = {
        "ece_before": expected_calibration_error(softmax(held_out.logits), held_out.labels),
        "ece_after": expected_calibration_error(after, held_out.labels),
    }
    temperature = fit_temperature(held_out.logits, held_out.labels)
    return temperature, {key: round(value, 3) for key, value in error.items()}


def abstain_rule(views: Sequence[HeldOut]) -> dict[str, float]:
    """Set the limits of distance from bags that were held out, in their own colours and in other stains."""
    distances = np.concatenate([view.distances for view in views])
    return {
        "min_patches": 4,
        "min_tissue_mm2": 0.05,
        "unusual_distance": round(float(np.percentile(distances, 95)), 3),
        "max_distance": round(float(np.percentile(distances, 99.5)), 3),
    }
