# SPDX-License-Identifier: Apache-2.0
"""CLAM: attention over the patches of a slide, with one attention for all classes (SB) or one for each (MB).

Published in M. Y. Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide
images", Nature Biomedical Engineering 5 (2021). The layers and their names are those of its checkpoints,
brought to one layout by `clam_core.models.layouts`.
"""

from dataclasses import dataclass

import torch
from torch import nn

from clam_core.models.prediction import AggregatorNetwork, SlidePrediction, prediction_from

HIDDEN = 512
ATTENTION_WIDTH = {"small": 256, "big": 384}


@dataclass(frozen=True)
class ClamShape:
    """What distinguishes one CLAM from another.

    Attributes
    ----------
    embed_dim
        Values a patch.
    classes
        Number of classes.
    multi_branch
        True for CLAM_MB (one attention for each class), False for CLAM_SB.
    gated
        Whether the attention is gated.
    attention_width
        256 for the small model, 384 for the big one.
    """

    embed_dim: int
    classes: int
    multi_branch: bool = False
    gated: bool = True
    attention_width: int = ATTENTION_WIDTH["small"]


@dataclass(frozen=True)
class BagOutput:
    """What an aggregator says of one bag of N patches.

    Attributes
    ----------
    logits
        (C,)
    attention_raw
        (K, N), before the softmax: K = 1, or C for one row a class.
    hidden
        (N, 512): the patches after the first layer.
    slide_vector
        (K, 512): what the classifier saw.
    """

    logits: torch.Tensor
    attention_raw: torch.Tensor
    hidden: torch.Tensor
    slide_vector: torch.Tensor


class GatedAttention(nn.Module):
    """tanh(Ax) * sigmoid(Bx) -> C: (N, 512) -> (N, K)."""

    def __init__(self, width: int, rows: int, dropout: float) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(HIDDEN, width), nn.Tanh(), nn.Dropout(dropout))
        self.attention_b = nn.Sequential(nn.Linear(HIDDEN, width), nn.Sigmoid(), nn.Dropout(dropout))
        self.attention_c = nn.Linear(width, rows)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Score each patch."""
        scores: torch.Tensor = self.attention_c(self.attention_a(hidden) * self.attention_b(hidden))
        return scores


class UngatedAttention(nn.Module):
    """tanh(Ax) -> C: (N, 512) -> (N, K)."""

    def __init__(self, width: int, rows: int, dropout: float) -> None:
        super().__init__()
        self.module = nn.Sequential(
            nn.Linear(HIDDEN, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, rows)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Score each patch."""
        scores: torch.Tensor = self.module(hidden)
        return scores


class Clam(AggregatorNetwork):
    """CLAM_SB and CLAM_MB.

    Parameters
    ----------
    shape
        Which CLAM.
    dropout
        After the first layer; inside the attention it is 0.25 whenever this is above 0, as in the reference.
    """

    ATTENTION_DROPOUT = 0.25

    def __init__(self, shape: ClamShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embed_dim = shape.embed_dim
        self.classes = shape.classes
        rows = shape.classes if shape.multi_branch else 1
        attention = GatedAttention if shape.gated else UngatedAttention
        inner = self.ATTENTION_DROPOUT if dropout > 0 else 0.0
        self.attention_net = nn.Sequential(
            nn.Linear(shape.embed_dim, HIDDEN),
            nn.ReLU(),
            nn.Dropout(dropout),
            attention(shape.attention_width, rows, inner),
        )
        self.classifiers = _classifiers(shape)
        self.instance_classifiers = nn.ModuleList(nn.Linear(HIDDEN, 2) for _ in range(shape.classes))

    def forward(self, features: torch.Tensor) -> BagOutput:
        """Aggregate features (N, embed_dim) of one slide."""
        hidden = self.attention_net[:3](features)
        attention_raw = self.attention_net[3](hidden).transpose(0, 1)
        slide_vector = torch.softmax(attention_raw, dim=1) @ hidden
        return BagOutput(self._logits(slide_vector), attention_raw, hidden, slide_vector)

    def predict(self, features: torch.Tensor) -> SlidePrediction:
        """Predict one slide."""
        out = self(features)
        return prediction_from(out.logits, out.attention_raw, out.slide_vector)

    def bag_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (C,) of one slide."""
        logits: torch.Tensor = self(features).logits
        return logits

    def _logits(self, slide_vector: torch.Tensor) -> torch.Tensor:
        if isinstance(self.classifiers, nn.ModuleList):
            each = [classify(slide_vector[index]) for index, classify in enumerate(self.classifiers)]
            return torch.cat(each)
        logits: torch.Tensor = self.classifiers(slide_vector[0])
        return logits


def _classifiers(shape: ClamShape) -> nn.Module:
    if shape.multi_branch:
        return nn.ModuleList(nn.Linear(HIDDEN, 1) for _ in range(shape.classes))
    return nn.Linear(HIDDEN, shape.classes)
