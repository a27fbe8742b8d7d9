# SPDX-License-Identifier: Apache-2.0
"""The models that were tried on microscope fields: each is fitted to fields, then judges bags of patches."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.training.baseline import fit_logistic
from clam_core.training.field_bags import Linear, fit_scaler, fit_whitening
from clam_core.training.field_models import SETTINGS, train_network
from clam_core.training.fields import FieldFeatures
from clam_core.training.fine_tuning import FrozenBlocks, fine_tune
from clam_core.training.metrics import auc

Patches = NDArray[np.float32]
Judge = Callable[[Patches], float]
"""Gives the log-odds of carcinoma of the patches (N, D) of one bag."""
Fit = Callable[[Sequence[FieldFeatures]], Judge]

STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03)
"""Inverse penalties of the logistic regression to choose from."""


def clam(fields: Sequence[FieldFeatures]) -> Judge:
    """Train the demonstration model's CLAM."""
    return _clam_after(fit_scaler(fields), fields)


def _clam_after(scaler: Linear, fields: Sequence[FieldFeatures]) -> Judge:
    network = train_network(fields, scaler, SETTINGS).eval()

    def judge(patches: Patches) -> float:
        with torch.inference_mode():
            logits = network.bag_logits(torch.from_numpy(scaler.apply(patches)))
        return float(logits[1] - logits[0])

    return judge


def clam_on_originals(fields: Sequence[FieldFeatures]) -> Judge:
    """Train without any recoloured copy."""
    return clam(_originals(fields))


def clam_on_whitened(fields: Sequence[FieldFeatures]) -> Judge:
    """Whiten the features before CLAM."""
    return _clam_after(fit_whitening(fields), fields)


def logistic(fields: Sequence[FieldFeatures], strength: float = 0.01) -> Judge:
    """Fit a logistic regression to the mean features of every view of each field: seconds, not minutes."""
    rows = [view.mean(axis=0) for item in fields for view in item.views]
    labels = [item.field.label for item in fields for _ in item.views]
    fitted = fit_logistic(np.stack(rows), np.array(labels), strength)
    return lambda patches: float(fitted.scores(patches.mean(axis=0, keepdims=True))[0])


def logistic_on_originals(fields: Sequence[FieldFeatures]) -> Judge:
    """Fit one to the fields in their own colours alone."""
    return logistic(_originals(fields))


def nested_logistic(fields: Sequence[FieldFeatures]) -> Judge:
    """Fit one whose penalty is chosen by cross-validation inside the training folds."""
    inner = sorted({item.field.fold for item in fields})

    def value(strength: float) -> float:
        areas = []
        for fold in inner:
            judge = logistic([item for item in fields if item.field.fold != fold], strength)
            inside = [item for item in fields if item.field.fold == fold]
            scores = np.array([judge(item.views[0]) for item in inside])
            areas.append(auc(np.array([item.field.label for item in inside]), scores))
        return float(np.mean(areas))

    return logistic(fields, max(STRENGTHS, key=value))


def _originals(fields: Sequence[FieldFeatures]) -> list[FieldFeatures]:
    return [FieldFeatures(item.field, item.views[:1]) for item in fields]


@cache
def frozen_blocks() -> FrozenBlocks:
    """Load the blocks that stay as they are, once."""
    return FrozenBlocks()


def fine_tuned(fields: Sequence[FieldFeatures]) -> Judge:
    """Tune the last blocks of the encoder; the fields' views are what the frozen ones said."""
    return fine_tune(fields, frozen_blocks())
