# SPDX-License-Identifier: Apache-2.0
"""Training of an aggregator: one bag a step, as the reference does it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.models.clam import BagOutput, Clam
from clam_core.models.prediction import AggregatorNetwork
from clam_core.training.losses import LossKind, instance_branch, loss_function
from clam_core.training.state import Epoch, TrainingState

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
class StepResult:
    """What one step said before it changed the weights."""

    bag_loss: float
    instance_loss: float
    logits: Features


def make_optimiser(network: AggregatorNetwork, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.Adam(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def train_step(
    network: AggregatorNetwork,
    optimiser: torch.optim.Optimizer,
    features: Features,
    label: int,
    settings: TrainingSettings,
) -> StepResult:
    """Learn from one bag of features (N, D); CLAM learns from single patches besides."""
    batch = torch.from_numpy(features).to(_device(network))
    if isinstance(network, Clam):
        out: BagOutput = network(batch)
        logits, instance_loss = out.logits, _instance_loss(network, out, label, settings)
        bag_loss = _bag_loss(logits, label, settings)
        total = settings.bag_weight * bag_loss + (1 - settings.bag_weight) * instance_loss
    else:
        logits, instance_loss = network.bag_logits(batch), torch.zeros(())
        total = bag_loss = _bag_loss(logits, label, settings)
    optimiser.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return StepResult(bag_loss.item(), instance_loss.item(), logits.detach().cpu().numpy().copy())


def _bag_loss(logits: torch.Tensor, label: int, settings: TrainingSettings) -> torch.Tensor:
    return loss_function(settings.bag_loss)(logits[None], torch.tensor([label], device=logits.device))


def _instance_loss(network: Clam, out: BagOutput, label: int, settings: TrainingSettings) -> torch.Tensor:
    return instance_branch(
        network,
        out,
        label,
        settings.instance_loss,
        k_sample=settings.k_sample,
        subtyping=settings.subtyping,
    ).loss


def _device(network: AggregatorNetwork) -> torch.device:
    return next(network.parameters()).device


def bag_logits(network: AggregatorNetwork, bags: Sequence[Bag]) -> Features:
    """Return the logits (B, C) of bags as they are, without dropout."""
    network.eval()
    device = _device(network)
    with torch.inference_mode():
        rows = [
            network.bag_logits(torch.from_numpy(bag.features(None)).to(device)).cpu().numpy() for bag in bags
        ]
    return np.stack(rows)


def fit(
    network: AggregatorNetwork,
    training: Sequence[Bag],
    validation: Sequence[Bag],
    settings: TrainingSettings,
    report: Callable[[Epoch], None] = lambda _: None,
    keep: Path | None = None,
) -> list[Epoch]:
    """Train, and end with the weights of the epoch that had the lowest validation loss.

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
    keep
        File that keeps the state after each epoch: where it is there already, training goes on after the
        epoch that it holds, and ends as if it had never been stopped.

    Returns
    -------
    list of Epoch
        What happened.
    """
    torch.manual_seed(settings.seed)
    state = TrainingState(network, make_optimiser(network, settings), np.random.default_rng(settings.seed))
    if keep is not None and keep.is_file():
        state.load(keep)
    while not _finished(state, settings):
        epoch = _run_epoch(state, training, validation, settings)
        state.add(epoch)
        report(epoch)
        if keep is not None:
            state.save(keep)
    state.restore_best()
    return state.epochs


def _finished(state: TrainingState, settings: TrainingSettings) -> bool:
    done = len(state.epochs)
    stale = state.stale >= settings.patience and done > settings.min_epochs
    return done >= settings.max_epochs or stale


def _run_epoch(
    state: TrainingState, training: Sequence[Bag], validation: Sequence[Bag], settings: TrainingSettings
) -> Epoch:
    state.network.train()
    order = sampling_order([bag.label for bag in training], state.rng, weighted=settings.weighted_sampling)
    steps = [
        train_step(
            state.network,
            state.optimiser,
            training[index].features(state.rng),
            training[index].label,
            settings,
        )
        for index in order
    ]
    return Epoch(
        number=len(state.epochs),
        bag_loss=float(np.mean([step.bag_loss for step in steps])),
        instance_loss=float(np.mean([step.instance_loss for step in steps])),
        validation=_validation_loss(state.network, validation, settings) if validation else None,
    )


def _validation_loss(network: AggregatorNetwork, bags: Sequence[Bag], settings: TrainingSettings) -> float:
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
