# SPDX-License-Identifier: Apache-2.0
"""Where a training stands: kept in one file after each epoch, so that it can be stopped at any time."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from clam_core.errors import CheckpointError
from clam_core.models.prediction import AggregatorNetwork

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Epoch:
    """Mean losses of one epoch; `validation` is None where nothing is held out."""

    number: int
    bag_loss: float
    instance_loss: float
    validation: float | None


class TrainingState:
    """Everything that the next epoch depends on.

    Parameters
    ----------
    network
        What is trained.
    optimiser
        Of its parameters.
    rng
        Draws the order of the bags.
    """

    def __init__(
        self, network: AggregatorNetwork, optimiser: torch.optim.Optimizer, rng: np.random.Generator
    ) -> None:
        self.network = network
        self.optimiser = optimiser
        self.rng = rng
        self.epochs: list[Epoch] = []
        self.stale = 0
        self._best_loss = float("inf")
        self._best: Tensors = {}

    def add(self, epoch: Epoch) -> None:
        """Note an epoch, and the weights where none before had a lower validation loss."""
        self.epochs.append(epoch)
        if epoch.validation is None:
            return
        if epoch.validation < self._best_loss:
            self.stale, self._best_loss = 0, epoch.validation
            self._best = {key: value.clone() for key, value in self.network.state_dict().items()}
        else:
            self.stale += 1

    def restore_best(self) -> None:
        """Give the network the best weights, where anything was held out to tell which they are."""
        if self._best:
            self.network.load_state_dict(self._best)

    def save(self, path: Path) -> None:
        """Write the state; a crash leaves the old file or the new one."""
        tensors = {
            **_under("network", self.network.state_dict()),
            **_under("best", self._best),
            **_under("generator", _generators()),
        }
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= _under(f"optimiser.{index}", values)
        said = {
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "stale": self.stale,
            "best_loss": self._best_loss,
            "order": self.rng.bit_generator.state,
        }
        unfinished = path.with_suffix(".part")
        save_file(tensors, unfinished, {"state": json.dumps(said)})
        unfinished.replace(path)

    def load(self, path: Path) -> None:
        """Go back to where a file says that training stood.

        Raises
        ------
        CheckpointError
            If the file is damaged.
        """
        try:
            tensors = load_file(path)
            with safe_open(path, "pt") as file:
                said = json.loads(file.metadata()["state"])
            self._take(tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is damaged ({error}): delete it to train this fold afresh."
            ) from error
        self.epochs = [Epoch(**epoch) for epoch in said["epochs"]]
        self.stale, self._best_loss = said["stale"], said["best_loss"]
        self.rng.bit_generator.state = said["order"]

    def _take(self, tensors: Tensors) -> None:
        self.network.load_state_dict(_below("network", tensors))
        self._best = _below("best", tensors)
        groups = self.optimiser.state_dict()["param_groups"]
        kept = {index: _below(f"optimiser.{index}", tensors) for index in groups[0]["params"]}
        self.optimiser.load_state_dict({"state": kept, "param_groups": groups})
        generators = _below("generator", tensors)
        torch.set_rng_state(generators["cpu"])
        if "cuda" in generators and torch.cuda.is_available():
            torch.cuda.set_rng_state(generators["cuda"])


def _generators() -> Tensors:
    """Return the states of torch's generators: dropout draws from that of its device."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {f"{prefix}.{key}": value.contiguous() for key, value in tensors.items()}


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {
        key.removeprefix(f"{prefix}."): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}.")
    }
