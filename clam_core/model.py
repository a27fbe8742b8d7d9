# SPDX-License-Identifier: Apache-2.0
"""What an analysis asks of a model; `clam_core.package.ModelPackage` is the one that comes from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.device import select_device
from clam_core.encoders import Encoder, Precision
from clam_core.models import SlidePrediction
from clam_core.quality import Quality


class Predictor(Protocol):
    """Features of a slide's patches in, a prediction out."""

    def predict(self, features: NDArray[np.float32]) -> SlidePrediction:
        """Predict from features (N, D)."""


class Model(Protocol):
    """Who a model is, what it wants to see, and its parts."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""

    @property
    def patch_px(self) -> int:
        """Side of a patch, in pixels at `mpp`."""

    @property
    def mpp(self) -> float:
        """Micrometres per pixel it was trained at."""

    @property
    def tissue_preset(self) -> str:
        """Name of the tissue preset it was trained with."""

    @property
    def sha256(self) -> str:
        """Identity of the whole."""

    @property
    def intended_use(self) -> str:
        """What it is for, as a sentence."""

    @property
    def use(self) -> str:
        """``commercial``, ``non-commercial``, ``demonstration`` or ``unknown``."""

    def load_encoder(self, device: torch.device, weights: Path | None, precision: Precision) -> Encoder:
        """Load the encoder it was trained with."""

    def load_aggregator(self, device: torch.device) -> Predictor:
        """Load what predicts slides."""

    def assess(self, features: NDArray[np.float32], tissue_mm2: float | None, patch_count: int) -> Quality:
        """Judge whether the model may answer for such a slide."""


@dataclass(frozen=True)
class LoadedModel:
    """A model whose networks lie on a device, for one slide or for many."""

    package: Model
    encoder: Encoder
    aggregator: Predictor
    device: torch.device


def load_model(
    package: Model,
    device: str = "auto",
    encoder_weights: Path | None = None,
    precision: Precision = Precision.FLOAT32,
) -> LoadedModel:
    """Load a model's encoder and aggregator.

    Parameters
    ----------
    package
        The model.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    encoder_weights
        The encoder's weights file, where they do not come with its name.
    precision
        What the encoder computes in.

    Raises
    ------
    ParameterError
        If there is no such device, or it does not compute in this precision.
    ModelError
        If weights are missing, damaged or of another model.
    """
    chosen = select_device(device)
    encoder = package.load_encoder(chosen, encoder_weights, precision)
    return LoadedModel(package, encoder, package.load_aggregator(chosen), chosen)
