# SPDX-License-Identifier: Apache-2.0
"""How good a prediction is, and how sure one can be of that."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Interval:
    """A value and the 95 % confidence interval around it."""

    value: float
    low: float
    high: float


def auc(labels: Ints, scores: Floats) -> float:
    """Return the area under the ROC curve, by ranks: ties count a half; NaN where one class is missing."""
    positive = scores[labels == 1]
    negative = scores[labels == 0]
    if len(positive) == 0 or len(negative) == 0:
        return float("nan")
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    up_to = np.searchsorted(ordered, positive, side="right")
    return float((below + up_to).mean() / 2 / len(negative))


def macro_auc(labels: Ints, probabilities: Floats) -> float:
    """Return the AUC of two classes, or the mean of one class against the rest for more."""
    classes = probabilities.shape[1]
    if classes == 2:
        return auc(labels, probabilities[:, 1])
    return float(
        np.nanmean([auc((labels == index).astype(int), probabilities[:, index]) for index in range(classes)])
    )


def balanced_accuracy(labels: Ints, predicted: Ints) -> float:
    """Return the mean share of right answers over the classes that occur."""
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))


def confusion(labels: Ints, predicted: Ints, classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix (C, C): rows are the truth, columns the prediction."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def bootstrap_auc(labels: Ints, probabilities: Floats, draws: int = 2000, seed: int = 0) -> Interval:
    """Return the AUC with a percentile interval over bags drawn again with replacement (B. Efron, 1979)."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(labels), size=(draws, len(labels)))
    values = np.array([macro_auc(labels[pick], probabilities[pick]) for pick in picks])
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(macro_auc(labels, probabilities), float(low), float(high))


def softmax(logits: Floats, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return the probabilities (B, C) of logits (B, C) at a temperature."""
    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return probabilities


def negative_log_likelihood(logits: Floats, labels: Ints, temperature: float = 1.0) -> float:
    """Return the mean surprise at the right classes."""
    right = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """Return the temperature that makes the right classes likeliest.

    C. Guo et al., "On calibration of modern neural networks", ICML 2017; by golden section on its
    logarithm, between 1/20 and 20.
    """
    ratio = (np.sqrt(5) - 1) / 2
    low, high = np.log(0.05), np.log(20.0)
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(logits, labels, np.exp(left)) < negative_log_likelihood(
            logits, labels, np.exp(right)
        ):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def expected_calibration_error(probabilities: Floats, labels: Ints, bins: int = 10) -> float:
    """Return the mean distance between how sure and how right predictions are, over equal bins."""
    sureness = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.minimum((sureness * bins).astype(int), bins - 1)
    error = 0.0
    for index in range(bins):
        inside = which == index
        if inside.any():
            error += inside.mean() * abs(sureness[inside].mean() - right[inside].mean())
    return float(error)
