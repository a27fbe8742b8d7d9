# SPDX-License-Identifier: Apache-2.0
"""The max-pooling baselines beside CLAM: the slide is what its most telling patch is."""

import torch
from torch import nn

from clam_core.models.clam import HIDDEN
from clam_core.models.prediction import AggregatorNetwork, SlidePrediction, prediction_from


class MilFc(AggregatorNetwork):
    """MIL_fc (two classes) and MIL_fc_mc (more): each patch classified alone.

    Parameters
    ----------
    embed_dim
        Values a patch.
    classes
        Number of classes.
    any_class
        False for MIL_fc: the patch with the highest probability of class 1 decides. True for MIL_fc_mc: the
        patch with the highest probability of any class.
    """

    def __init__(self, embed_dim: int, classes: int, *, any_class: bool) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.classes = classes
        self.any_class = any_class
        self.fc = nn.Sequential(nn.Linear(embed_dim, HIDDEN), nn.ReLU())
        self.classifier = nn.Linear(HIDDEN, classes)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Classify the patches (N, embed_dim) of one slide.

        Returns
        -------
        logits
            (C,) of the deciding patch.
        probabilities
            (N, C) of all patches.
        vector
            (1, 512): the deciding patch after the first layer.
        """
        hidden = self.fc(features)
        logits = self.classifier(hidden)
        probabilities = torch.softmax(logits, dim=1)
        telling = probabilities.amax(dim=1) if self.any_class else probabilities[:, 1]
        decisive = int(torch.argmax(telling))
        return logits[decisive], probabilities, hidden[decisive : decisive + 1]

    def packed(self) -> dict[str, torch.Tensor]:
        """Return the state dict; the name of the classifier tells MIL_fc from MIL_fc_mc."""
        name = "classifiers." if self.any_class else "classifier."
        return {key.replace("classifier.", name): value for key, value in self.state_dict().items()}

    def predict(self, features: torch.Tensor) -> SlidePrediction:
        """Predict one slide; its `attention_raw` are the probabilities (C, N) of the patches."""
        logits, probabilities, vector = self(features)
        return prediction_from(logits, probabilities.transpose(0, 1), vector, attends=False)

    def bag_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (C,) of the deciding patch."""
        logits: torch.Tensor = self(features)[0]
        return logits
