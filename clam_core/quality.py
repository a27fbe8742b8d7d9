# SPDX-License-Identifier: Apache-2.0
"""Whether a prediction may be trusted.

Enough tissue, and tissue of the kind that the model was trained on.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Features = NDArray[np.float32]
Status = Literal["ok", "limited", "abstained"]

LITTLE_TISSUE = "little_tissue"
FEW_PATCHES = "few_patches"
UNUSUAL = "unusual_features"
OUT_OF_DISTRIBUTION = "out_of_distribution"

LEAST_VARIANCE = 1e-12
"""Where patches do not vary at all a distance is large, and still a number."""


@dataclass(frozen=True)
class Quality:
    """What is to be thought of a prediction.

    Attributes
    ----------
    status
        ``ok``; ``limited``, to be read with care; ``abstained``, not to be read at all.
    flags
        Names of what is wrong, for machines.
    reason
        The same as a sentence; empty where nothing is wrong.
    """

    status: Status
    flags: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class FeatureReference:
    """The patches a model was trained on, as a Gaussian with a low-rank covariance.

    M. E. Tipping, C. M. Bishop, "Probabilistic principal component analysis", JRSS B 61 (1999): some
    directions with variances of their own, one variance for all the others.

    Attributes
    ----------
    mean
        (D,)
    directions
        (K, D), orthonormal.
    variances
        (K,), along the directions.
    rest
        Variance along each of the other D - K directions.
    """

    mean: Features
    directions: Features
    variances: Features
    rest: float

    def distance(self, features: Features) -> float:
        """Return the median distance of patches (N, D), about 1 for patches like those of the training."""
        centred = features.astype(np.float64) - self.mean
        along = centred @ self.directions.T.astype(np.float64)
        left = np.maximum((centred**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        squared = (along**2 / self.variances).sum(axis=1) + left / self.rest
        return float(np.median(np.sqrt(squared / features.shape[1])))

    @property
    def whole(self) -> bool:
        """Whether its parts fit each other, so that patches have a distance from it: one that is a number."""
        variances = np.append(self.variances, self.rest)
        shapes = (self.directions.shape, self.variances.shape)
        if shapes != ((len(self.directions), self.mean.size), (len(self.directions),)):
            return False
        finite = all(np.isfinite(part).all() for part in (self.mean, self.directions, variances))
        return finite and bool((variances > 0).all())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the reference as tensors, to be kept in a file."""
        return {
            "mean": torch.from_numpy(self.mean),
            "directions": torch.from_numpy(self.directions),
            "variances": torch.from_numpy(self.variances),
            "rest": torch.tensor([self.rest], dtype=torch.float64),
        }

    @staticmethod
    def from_tensors(tensors: dict[str, torch.Tensor]) -> "FeatureReference":
        """Make a reference of what `tensors` returned.

        Raises
        ------
        KeyError
            If one is missing.
        """
        return FeatureReference(
            mean=tensors["mean"].numpy(),
            directions=tensors["directions"].numpy(),
            variances=tensors["variances"].numpy(),
            rest=float(tensors["rest"][0]),
        )


def fit_reference(features: Features, directions: int = 32) -> FeatureReference:
    """Describe patches (N, D), N > D or not, by their mean and the directions in which they vary most."""
    mean = features.mean(axis=0, dtype=np.float64)
    covariance = np.cov(features.astype(np.float64).T)
    variances, axes = np.linalg.eigh(covariance)
    count = min(directions, len(variances) - 1)
    return FeatureReference(
        mean=mean.astype(np.float32),
        directions=np.ascontiguousarray(axes[:, ::-1][:, :count].T.astype(np.float32)),
        variances=np.maximum(variances[::-1][:count], LEAST_VARIANCE).astype(np.float32),
        rest=float(np.maximum(variances[: len(variances) - count].mean(), LEAST_VARIANCE)),
    )


@dataclass(frozen=True)
class AbstainRule:
    """When a model does not answer.

    Attributes
    ----------
    min_patches
        Fewer patches: abstain.
    min_tissue_mm2
        Less tissue: abstain.
    unusual_distance
        Further from the training than this: limited.
    max_distance
        Further than this: abstain.
    """

    min_patches: int = 1
    min_tissue_mm2: float = 0.0
    unusual_distance: float | None = None
    max_distance: float | None = None


def assess(rule: AbstainRule, distance: float | None, tissue_mm2: float | None, patch_count: int) -> Quality:
    """Judge a prediction.

    Parameters
    ----------
    rule
        The model's.
    distance
        Of the slide's patches from the training, None where the model cannot tell.
    tissue_mm2
        Area of the tissue, None where it is not known.
    patch_count
        Patches that the prediction rests on.

    Returns
    -------
    Quality
        The first reason to abstain decides the sentence; all flags are named.
    """
    reasons: list[tuple[str, Status, str]] = []
    if patch_count < rule.min_patches:
        reasons.append(
            (
                FEW_PATCHES,
                "abstained",
                f"only {patch_count} patches; the model wants {rule.min_patches} or more",
            )
        )
    if tissue_mm2 is not None and tissue_mm2 < rule.min_tissue_mm2:
        reasons.append(
            (
                LITTLE_TISSUE,
                "abstained",
                f"only {tissue_mm2:.2f} mm2 of tissue; the model wants {rule.min_tissue_mm2:g} mm2 or more",
            )
        )
    reasons += _unlike_training(rule, distance)
    return _verdict(reasons)


def _unlike_training(rule: AbstainRule, distance: float | None) -> list[tuple[str, Status, str]]:
    if distance is None:
        return []
    if math.isnan(distance) and (rule.max_distance is not None or rule.unusual_distance is not None):
        sentence = (
            "how far the tissue is from what the model was trained on is no number, so nobody can tell; "
            "look at the model's package"
        )
        return [(OUT_OF_DISTRIBUTION, "abstained", sentence)]
    if rule.max_distance is not None and distance > rule.max_distance:
        sentence = (
            "the tissue looks unlike anything the model was trained on "
            f"(distance {distance:.2f}, at most {rule.max_distance:.2f})"
        )
        return [(OUT_OF_DISTRIBUTION, "abstained", sentence)]
    if rule.unusual_distance is not None and distance > rule.unusual_distance:
        sentence = (
            "the tissue looks unlike most of what the model was trained on "
            f"(distance {distance:.2f}, usually at most {rule.unusual_distance:.2f})"
        )
        return [(UNUSUAL, "limited", sentence)]
    return []


def _verdict(reasons: list[tuple[str, Status, str]]) -> Quality:
    if not reasons:
        return Quality("ok")
    status: Status = "abstained" if any(item[1] == "abstained" for item in reasons) else "limited"
    opening = "The model abstains" if status == "abstained" else "Read this with care"
    return Quality(
        status, tuple(item[0] for item in reasons), f"{opening}: {'; '.join(item[2] for item in reasons)}."
    )
