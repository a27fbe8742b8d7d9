# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to something that predicts slides."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.errors import CheckpointError, ParameterError, UnsupportedCheckpointError
from clam_core.models import abmil, layouts
from clam_core.models.prediction import AggregatorNetwork, SlidePrediction
from clam_core.tensors import read_tensors

Tensors = dict[str, torch.Tensor]


class Aggregator(Protocol):
    """Something that turns the features of a slide's patches into a prediction."""

    @property
    def embed_dim(self) -> int:
        """Values a patch."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    def predict(self, features: NDArray[np.float32]) -> SlidePrediction:
        """Predict one slide of features (N, D)."""


@dataclass(frozen=True)
class Architecture:
    """A kind of aggregator: how its checkpoints are told, and built.

    Attributes
    ----------
    name
        For people.
    recognises
        Tells a state dict of this kind.
    build
        Makes the network that the tensors describe, filled.
    """

    name: str
    recognises: Callable[[Tensors], bool]
    build: Callable[[Tensors], AggregatorNetwork]


ARCHITECTURES = (
    Architecture("CLAM", layouts.recognises_clam, layouts.build_clam),
    Architecture("ABMIL", abmil.recognises, abmil.build),
    Architecture("MIL_fc", layouts.recognises_mil, layouts.build_mil),
)
"""Every aggregator this package knows. A new one is one file and one line here."""


class TorchAggregator:
    """A network of one of the architectures, on a device."""

    def __init__(self, network: AggregatorNetwork, device: torch.device | str = "cpu") -> None:
        self.embed_dim = network.embed_dim
        self.classes = network.classes
        self._device = torch.device(device)
        self._network = network.eval().requires_grad_(requires_grad=False).to(self._device)
        # In torch 2.13 the first multi-threaded tanh of a process is now and then wrong by 1e-4 on a CPU;
        # after a tiny one it is right.
        torch.tanh(torch.zeros(1))

    def predict(self, features: NDArray[np.float32]) -> SlidePrediction:
        """Predict one slide.

        Parameters
        ----------
        features
            float32 (N, D), N at least 1.

        Returns
        -------
        SlidePrediction
            On the CPU.

        Raises
        ------
        ParameterError
            If there are no patches, or their vectors have another length than the model was trained with.
        """
        if features.ndim != 2 or len(features) == 0 or features.shape[1] != self.embed_dim:
            raise ParameterError(
                f"The model wants features of shape (patches, {self.embed_dim}), and these have "
                f"{features.shape}: use the encoder that the model was trained with."
            )
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32)).to(self._device)
            return self._network.predict(batch)


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Aggregator:
    """Load a checkpoint of CLAM, MIL_fc or ABMIL, in any layout, as safetensors or as a torch file.

    Parameters
    ----------
    path
        The file.
    device
        Where it shall run.

    Returns
    -------
    Aggregator
        Ready to predict.

    Raises
    ------
    CheckpointError
        If the file is missing or damaged, or a weight is no number.
    UnsupportedCheckpointError
        If it wants to run code, is of a kind that is not known, or is one of CLAM's broken ones.
    """
    network = network_from(read_tensors(path), path)
    _require_numbers(network, path)
    return TorchAggregator(network, device)


def _require_numbers(network: AggregatorNetwork, path: Path) -> None:
    """Refuse what a training that diverged has saved: every slide's probabilities would be NaN."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path} cannot be used: weights of {name} are NaN or infinite, as after a training that "
                "diverged. Name a checkpoint that was saved before, or train again."
            )


def network_from(tensors: Tensors, path: Path) -> AggregatorNetwork:
    """Make the network that a state dict describes; `path` is where it came from, for the error."""
    for architecture in ARCHITECTURES:
        if architecture.recognises(tensors):
            return _built(architecture, tensors, path)
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise UnsupportedCheckpointError(
        f"{path} is no checkpoint of a kind that is known ({known}): its tensors are "
        f"{', '.join(sorted(tensors)[:4])} and so on."
    )


def _built(architecture: Architecture, tensors: Tensors, path: Path) -> AggregatorNetwork:
    """Build what was recognised by one tensor's name: what the others are, and of which shape, is unknown."""
    try:
        return architecture.build(tensors)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        lacks = isinstance(error, KeyError)
        reason = f"it lacks the tensor {error}" if lacks else " ".join(str(error).split()).rstrip(".")
        raise UnsupportedCheckpointError(
            f"{path} looks like a checkpoint of {architecture.name} and is none that can be used: {reason}. "
            "Save the state dict of the whole model again."
        ) from error
