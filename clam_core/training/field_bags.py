# SPDX-License-Identifier: Apache-2.0
"""Bags of microscope fields: neighbouring fields of one label and fold stand in for a slide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.models.clam import Clam
from clam_core.training.fields import FieldFeatures

Features = NDArray[np.float32]


class Linear(Protocol):
    """What is done to features before a network sees them."""

    def apply(self, features: Features) -> Features:
        """Change features (N, D)."""


@dataclass(frozen=True)
class Scaler:
    """Mean and standard deviation (D,) of the features that a model is trained on."""

    mean: Features
    deviation: Features

    def apply(self, features: Features) -> Features:
        """Scale features (N, D)."""
        scaled: Features = (features - self.mean) / self.deviation
        return scaled

    def fold_into(self, network: Clam) -> None:
        """Change the first layer so that the network takes features as they are."""
        weight = network.get_parameter("attention_net.0.weight")
        bias = network.get_parameter("attention_net.0.bias")
        with torch.no_grad():
            weight.div_(torch.from_numpy(self.deviation))
            bias.sub_(weight @ torch.from_numpy(self.mean))


def fit_scaler(fields: Sequence[FieldFeatures]) -> Scaler:
    """Measure all views of the fields."""
    features = np.concatenate([view for item in fields for view in item.views])
    return Scaler(features.mean(axis=0), features.std(axis=0) + np.float32(1e-6))


@dataclass(frozen=True)
class Whitening:
    """Principal directions (K, D) of the features around their mean (D,), each divided by its deviation."""

    mean: Features
    directions: Features

    def apply(self, features: Features) -> Features:
        """Whiten features (N, D) into (N, K)."""
        return np.asarray((features - self.mean) @ self.directions.T, dtype=np.float32)


def fit_whitening(fields: Sequence[FieldFeatures], directions: int = 128) -> Whitening:
    """Measure all views of the fields."""
    features = np.concatenate([view for item in fields for view in item.views])
    variances, axes = np.linalg.eigh(np.cov(features.T.astype(np.float64)))
    scaled = axes[:, -directions:] / np.sqrt(variances[-directions:])
    mean = features.mean(axis=0, dtype=np.float32)
    return Whitening(mean, np.ascontiguousarray(scaled.T.astype(np.float32)))


@dataclass(frozen=True)
class FieldBag:
    """A block of neighbouring fields.

    In training each draw takes a run of 1 to all of its fields, in one of their views; otherwise the bag is
    all of them in view `shown`.
    """

    fields: tuple[FieldFeatures, ...]
    scaler: Linear
    shown: int = 0

    @property
    def label(self) -> int:
        """Class of all the fields."""
        return self.fields[0].field.label

    def features(self, rng: np.random.Generator | None) -> Features:
        """Return the scaled patches (N, D)."""
        if rng is None:
            return self._patches(self.fields, self.shown)
        length = int(rng.integers(1, len(self.fields) + 1))
        start = int(rng.integers(len(self.fields) - length + 1))
        return self._patches(
            self.fields[start : start + length], int(rng.integers(len(self.fields[0].views)))
        )

    def _patches(self, fields: Sequence[FieldFeatures], view: int) -> Features:
        return self.scaler.apply(np.concatenate([item.views[view] for item in fields]))
