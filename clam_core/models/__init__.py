# SPDX-License-Identifier: Apache-2.0
"""Aggregators: the features of a slide's patches in, a prediction out."""

from clam_core.models.loading import ARCHITECTURES, Aggregator, Architecture, TorchAggregator, load_checkpoint
from clam_core.models.prediction import AggregatorNetwork, SlidePrediction

__all__ = [
    "ARCHITECTURES",
    "Aggregator",
    "AggregatorNetwork",
    "Architecture",
    "SlidePrediction",
    "TorchAggregator",
    "load_checkpoint",
]
