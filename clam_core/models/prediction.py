# SPDX-License-Identifier: Apache-2.0
"""What an aggregator says of a slide."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


@dataclass(frozen=True)
class SlidePrediction:
    """The prediction of one slide of N patches and C classes.

    Attributes
    ----------
    logits
        (C,) float32.
    probabilities
        (C,) float32: softmax of the logits, after calibration where the package holds one.
    attention_raw
        (K, N) float32, before the softmax; K = 1, or C for one row a class. For MIL_fc and MIL_fc_mc (C,
        N): the probabilities of each patch.
    slide_vector
        (K, D) float32: what the classifier saw.
    predicted
        Index of the class.
    attends
        Whether the patches share one attention. False for models that classify each patch alone.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    attention_raw: NDArray[np.float32]
    slide_vector: NDArray[np.float32]
    predicted: int
    attends: bool = True

    @property
    def attention(self) -> NDArray[np.float32]:
        """The row (N,) of `attention_raw` that explains the predicted class."""
        row = self.predicted if len(self.attention_raw) > 1 else 0
        weights: NDArray[np.float32] = self.attention_raw[row]
        return weights


def prediction_from(
    logits: torch.Tensor, attention_raw: torch.Tensor, slide_vector: torch.Tensor, *, attends: bool = True
) -> SlidePrediction:
    """Make a prediction of logits (C,), attention (K, N) and slide vector (K, D), wherever they lie."""
    probabilities = torch.softmax(logits, dim=0)
    return SlidePrediction(
        logits=_array(logits),
        probabilities=_array(probabilities),
        attention_raw=_array(attention_raw),
        slide_vector=_array(slide_vector),
        predicted=int(torch.argmax(probabilities)),
        attends=attends,
    )


class AggregatorNetwork(nn.Module):
    """The base of every aggregator.

    Attributes
    ----------
    embed_dim
        Values a patch.
    classes
        Number of classes.
    """

    embed_dim: int
    classes: int

    def predict(self, features: torch.Tensor) -> SlidePrediction:
        """Predict the slide whose patches are features (N, embed_dim)."""
        raise NotImplementedError

    def bag_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (C,) of features (N, embed_dim), for training: a gradient flows back."""
        raise NotImplementedError

    def packed(self) -> dict[str, torch.Tensor]:
        """Return the state dict under the names that a checkpoint of this kind has."""
        return dict(self.state_dict())


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return array
