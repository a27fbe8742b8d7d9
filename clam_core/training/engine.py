# SPDX-License-Identifier: Apache-2.0
"""Training of a CLAM: one bag a step, as the reference does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.models.clam import BagOutput, Clam
from clam_core.training.losses import LossKind, instance_branch, loss_function

Features = NDArray[np.float32]


class Bag(Protocol):
    """The patches of one slide, with its class."""

    @property
    def label(self) -> int:
        """Class of the slide."""

    def features(self, rng: np.random.Generator | None) -> Features:
        """Return features (N, D): drawn anew with `rng`, always the same without."""


@dataclass(frozen=True)
class FixedBag:
    """A bag that is the same every time."""

    label: int
    vectors: Features

    def features(self, rng: np.random.Generator | None) -> Features:  # noqa: ARG002 - nothing is drawn
        """Return the features."""
        return self.vectors


@dataclass(frozen=True)
class TrainingSettings:
    """How to train; the defaults are the reference's.

    Attributes
    ----------
    learning_rate, weight_decay
        Of Adam, or of SGD with momentum 0.9.
    bag_weight
        Share of the bag's loss; the rest is the patches'.
    bag_loss, instance_loss
        Their kinds.
    k_sample
        Patches on each side of the instance branch.
    subtyping
        Whether the other classes' highest patches are negatives.
    dropout
        After the first layer.
    max_epochs, min_epochs, patience
        Training ends after `max_epochs`, or when the validation loss has not improved for `patience`
        epochs, but not before `min_epochs`.
    weighted_sampling
        Draw bags with replacement so that classes come up equally often; else every bag once, in random
        order.
    optimiser
        ``"adam"`` or ``"sgd"``.
    seed
        Of the initial weights, the order and the dropout.
    """

    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    bag_weight: float = 0.7
    bag_loss: LossKind = LossKind.CE
    instance_loss: LossKind = LossKind.CE
    k_sample: int = 8
    subtyping: bool = False
    dropout: float = 0.25
    max_epochs: int = 200
    min_epochs: int = 50
    patience: int = 20
    weighted_sampling: bool = True
    optimiser: str = "adam"
    seed: int = 1


@dataclass(frozen=True)
class Epoch:
    """Mean losses of one epoch; `validation` is None where nothing is held out."""

    number: int
    bag_loss: float
    instance_loss: float
    validation: float | None


@dataclass(frozen=True)
class StepResult:
    """What one step said before it changed the weights."""

    bag_loss: float
    instance_loss: float
    logits: Features


def make_optimiser(network: Clam, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.Adam(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def train_step(
    network: Clam,
    optimiser: torch.optim.Optimizer,
    features: Features,
    label: int,
    settings: TrainingSettings,
) -> StepResult:
    """Learn from one bag of features (N, D)."""
    out: BagOutput = network(torch.from_numpy(features))
    target = torch.tensor([label])
    bag_loss = loss_function(settings.bag_loss)(out.logits[None], target)
    instances = instance_branch(
        network,
        out,
        label,
        settings.instance_loss,
        k_sample=settings.k_sample,
        subtyping=settings.subtyping,
    )
    total = settings.bag_weight * bag_loss + (1 - settings.bag_weight) * instances.loss
    optimiser.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return StepResult(bag_loss.item(), instances.loss.item(), out.logits.detach().numpy().copy())


def bag_logits(network: Clam, bags: Sequence[Bag]) -> Features:
    """Return the logits (B, C) of bags as they are, without dropout."""
    network.eval()
    with torch.inference_mode():
        rows = [network(torch.from_numpy(bag.features(None))).logits.numpy() for bag in bags]
    return np.stack(rows)


def fit(
    network: Clam,
    training: Sequence[Bag],
    validation: Sequence[Bag],
    settings: TrainingSettings,
    report: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Train a network in place; with validation bags it ends with the weights that did best on them.

    Parameters
    ----------
    network
        A new network; its weights are changed.
    training, validation
        Bags; without validation bags training lasts `max_epochs`.
    settings
        How to train.
    report
        Is told each epoch.

    Returns
    -------
    list of Epoch
        What happened.
    """
    rng = np.random.default_rng(settings.seed)
    torch.manual_seed(settings.seed)
    optimiser = make_optimiser(network, settings)
    best = _Best()
    epochs: list[Epoch] = []
    for number in range(settings.max_epochs):
        epoch = _run_epoch(network, optimiser, training, validation, settings, number, rng)
        epochs.append(epoch)
        report(epoch)
        if epoch.validation is not None:
            best.consider(epoch.validation, network)
            if number + 1 > settings.min_epochs and best.stale >= settings.patience:
                break
    best.restore(network)
    return epochs


def _run_epoch(
    network: Clam,
    optimiser: torch.optim.Optimizer,
    training: Sequence[Bag],
    validation: Sequence[Bag],
    settings: TrainingSettings,
    number: int,
    rng: np.random.Generator,
) -> Epoch:
    network.train()
    steps = [
        train_step(network, optimiser, training[index].features(rng), training[index].label, settings)
        for index in sampling_order([bag.label for bag in training], rng, weighted=settings.weighted_sampling)
    ]
    return Epoch(
        number=number,
        bag_loss=float(np.mean([step.bag_loss for step in steps])),
        instance_loss=float(np.mean([step.instance_loss for step in steps])),
        validation=_validation_loss(network, validation, settings) if validation else None,
    )


def _validation_loss(network: Clam, bags: Sequence[Bag], settings: TrainingSettings) -> float:
    logits = torch.from_numpy(bag_logits(network, bags))
    labels = torch.tensor([bag.label for bag in bags])
    return loss_function(settings.bag_loss)(logits, labels).item()


def sampling_order(labels: Sequence[int], rng: np.random.Generator, *, weighted: bool) -> NDArray[np.int64]:
    """Return the indices of one epoch's bags.

    With `weighted`, each bag is drawn with a weight of N / (bags of its class), with replacement.
    """
    if not weighted:
        return rng.permutation(len(labels))
    counts = np.bincount(labels)
    weights = 1.0 / counts[np.asarray(labels)]
    return rng.choice(len(labels), size=len(labels), p=weights / weights.sum())


class _Best:
    """Remembers the weights with the lowest validation loss, and how long ago they were found."""

    def __init__(self) -> None:
        self.stale = 0
        self._loss = float("inf")
        self._weights: dict[str, torch.Tensor] | None = None

    def consider(self, loss: float, network: Clam) -> None:
        if loss < self._loss:
            self.stale, self._loss = 0, loss
            self._weights = {key: value.clone() for key, value in network.state_dict().items()}
        else:
            self.stale += 1

    def restore(self, network: Clam) -> None:
        if self._weights is not None:
            network.load_state_dict(self._weights)
