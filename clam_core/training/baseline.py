# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on mean features: what a bag model has to be compared with."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Logistic:
    """A fitted logistic regression.

    Attributes
    ----------
    mean, deviation
        (D,), what vectors are standardised with.
    weight
        (D,), of standardised vectors.
    bias
        Log-odds at the mean.
    """

    mean: NDArray[np.floating]
    deviation: NDArray[np.floating]
    weight: NDArray[np.float64]
    bias: float

    def scores(self, vectors: Features) -> NDArray[np.float64]:
        """Return the log-odds (N,) of class 1 of vectors (N, D)."""
        scores: NDArray[np.float64] = ((vectors - self.mean) / self.deviation) @ self.weight + self.bias
        return scores


def fit_logistic(training: Features, labels: NDArray[np.int64], strength: float = 0.01) -> Logistic:
    """Fit a logistic regression.

    Parameters
    ----------
    training
        Vectors (N, D); they are standardised here.
    labels
        (N,), 0 or 1; both classes weigh the same.
    strength
        Inverse of the L2 penalty, as scikit-learn's C.
    """
    mean, deviation = training.mean(axis=0), training.std(axis=0) + 1e-6
    inputs = torch.from_numpy((training - mean) / deviation).double()
    targets = torch.from_numpy(labels).double()
    balance = torch.where(targets > 0, 0.5 / targets.mean(), 0.5 / (1 - targets.mean()))
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses = functional.binary_cross_entropy_with_logits(
            inputs @ weight + bias, targets, balance, reduction="sum"
        )
        total = losses + weight.square().sum() / (2 * strength)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Logistic(mean, deviation, weight.detach().numpy(), float(bias.detach()))
