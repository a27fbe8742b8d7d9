# SPDX-License-Identifier: Apache-2.0
"""ABMIL.

Attention over raw patch features and one linear layer (M. Ilse et al., ICML 2018, gated variant).
"""

import torch
from torch import nn

from clam_core.models.prediction import AggregatorNetwork, SlidePrediction, prediction_from

MARK = "abmil.value.weight"
"""The tensor by which a checkpoint says that it is one of these."""


class Abmil(AggregatorNetwork):
    """(N, embed_dim) -> logits (C,), attention before the softmax (1, N), slide vector (1, embed_dim)."""

    def __init__(self, embed_dim: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.classes = classes
        self.abmil = nn.ModuleDict(
            {
                "value": nn.Linear(embed_dim, width),
                "gate": nn.Linear(embed_dim, width),
                "score": nn.Linear(width, 1),
                "classifier": nn.Linear(embed_dim, classes),
            }
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Aggregate the patches of one slide."""
        gated = torch.tanh(self.abmil["value"](features)) * torch.sigmoid(self.abmil["gate"](features))
        attention_raw = self.abmil["score"](gated).transpose(0, 1)
        slide_vector = torch.softmax(attention_raw, dim=1) @ features
        return self.abmil["classifier"](slide_vector)[0], attention_raw, slide_vector

    def predict(self, features: torch.Tensor) -> SlidePrediction:
        """Predict one slide."""
        return prediction_from(*self(features))

    def bag_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (C,) of one slide."""
        logits: torch.Tensor = self(features)[0]
        return logits


def recognises(tensors: dict[str, torch.Tensor]) -> bool:
    """Tell whether a state dict is one of an ABMIL."""
    return MARK in tensors


def build(tensors: dict[str, torch.Tensor]) -> Abmil:
    """Make an ABMIL of the size that its tensors have, and fill it.

    Raises
    ------
    KeyError, RuntimeError, ValueError
        If tensors are missing, left over or of other shapes.
    """
    width, embed_dim = tensors[MARK].shape
    network = Abmil(embed_dim, width, len(tensors["abmil.classifier.bias"]))
    network.load_state_dict(tensors)
    return network
