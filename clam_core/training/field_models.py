# SPDX-License-Identifier: Apache-2.0
"""CLAM trained on microscope fields, and what its folds say of fields that they have not seen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clam_core.models.clam import Clam, ClamShape
from clam_core.quality import FeatureReference, fit_reference
from clam_core.training.baseline import fit_logistic
from clam_core.training.engine import TrainingSettings, bag_logits, fit
from clam_core.training.field_bags import FieldBag, Linear, Scaler, fit_scaler
from clam_core.training.fields import CLASSES, FieldFeatures, blocks_of
from clam_core.training.heldout import FOLDS, HeldOut, from_scores

FIELDS_PER_BAG = 4

SETTINGS = TrainingSettings(learning_rate=1e-4, max_epochs=10)
"""Few epochs and no early stopping: there is too little data to hold out another part of it."""


@dataclass(frozen=True)
class Trained:
    """A trained network, and what its features looked like."""

    network: Clam
    scaler: Scaler
    reference: FeatureReference


def train(fields: Sequence[FieldFeatures], settings: TrainingSettings = SETTINGS) -> Trained:
    """Train on fields, in blocks of neighbours."""
    scaler = fit_scaler(fields)
    network = train_network(fields, scaler, settings)
    reference = fit_reference(np.concatenate([view for item in fields for view in item.views]))
    return Trained(network, scaler, reference)


def train_network(fields: Sequence[FieldFeatures], scaler: Linear, settings: TrainingSettings) -> Clam:
    """Train a CLAM on scaled fields, in blocks of neighbours."""
    torch.manual_seed(settings.seed)
    bags = [FieldBag(block, scaler) for block in blocks_of(fields, FIELDS_PER_BAG)]
    width = bags[0].features(None).shape[1]
    network = Clam(ClamShape(width, len(CLASSES)), dropout=settings.dropout)
    fit(network, bags, [], settings)
    return network


def cross_validate(
    fields: Sequence[FieldFeatures], block: int, models: Sequence[Trained], view: int = 0
) -> HeldOut:
    """Let the model of each fold judge that fold's blocks of `block` fields, in one of their views."""
    labels, folds, logits, distances = [], [], [], []
    for fold, trained in enumerate(models):
        blocks = blocks_of([item for item in fields if item.field.fold == fold], block)
        bags = [FieldBag(members, trained.scaler, view) for members in blocks]
        logits.append(bag_logits(trained.network, bags))
        labels += [bag.label for bag in bags]
        folds += [fold] * len(bags)
        patches = [np.concatenate([item.views[view] for item in members]) for members in blocks]
        distances += [trained.reference.distance(item) for item in patches]
    return HeldOut(np.array(labels), np.array(folds), np.concatenate(logits), np.array(distances))


def baseline(fields: Sequence[FieldFeatures]) -> HeldOut:
    """Let a logistic regression on mean features judge single fields, over the same folds."""
    means = np.stack([item.views[0].mean(axis=0) for item in fields])
    labels = np.array([item.field.label for item in fields])
    folds = np.array([item.field.fold for item in fields])
    scores = np.zeros(len(fields))
    for fold in range(FOLDS):
        inside = folds == fold
        scores[inside] = fit_logistic(means[~inside], labels[~inside]).scores(means[inside])
    return from_scores(labels, folds, scores.tolist())
