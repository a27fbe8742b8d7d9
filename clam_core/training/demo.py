# SPDX-License-Identifier: Apache-2.0
"""The demonstration model ``oral-scc-demo``: trained, measured and packed by one command.

``python -m clam_core.training.demo --tiles FOLDER --out FOLDER`` reproduces the package that comes with
clam_core, and the figures of its card. See `clam_core.training.fields` for the data.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.encoders import ENCODERS, Encoder, load_encoder
from clam_core.model import load_model
from clam_core.models.clam import Clam, ClamShape
from clam_core.package import load_package
from clam_core.package_writing import write_package
from clam_core.quality import FeatureReference, fit_reference
from clam_core.training.baseline import logistic_scores
from clam_core.training.demo_card import model_card
from clam_core.training.demo_slides import said_of_slides
from clam_core.training.engine import TrainingSettings, bag_logits, fit
from clam_core.training.field_bags import FieldBag, Scaler, fit_scaler
from clam_core.training.fields import (
    CLASSES,
    CropPlan,
    FieldFeatures,
    blocks_of,
    field_features,
    read_fields,
)
from clam_core.training.metrics import (
    auc,
    balanced_accuracy,
    bootstrap_auc,
    confusion,
    expected_calibration_error,
    fit_temperature,
    softmax,
)

NAME = "oral-scc-demo"
VERSION = "1"
ENCODER = "efficientnet-lite0"
MAGNIFICATION = "400x"
FOLDS = 5
FIELDS_PER_BAG = 4

MPP = 1.0
"""Micrometres a pixel of a field brought to 224 px height: an estimate, see the card."""

PLAN = CropPlan()

SETTINGS = TrainingSettings(learning_rate=1e-4, max_epochs=10)
"""Few epochs and no early stopping: there is too little data to hold out another part of it."""

INTENDED_USE = (
    "Demonstration of the software, not for clinical use: trained on 672 microscope fields of oral mucosa, "
    "no slide was seen in training."
)

LICENCES = {
    "checkpoint": "Apache-2.0",
    "encoder": ENCODERS[ENCODER].licence,
    "data": "CC BY 4.0: T. Y. Rahman, L. B. Mahanta, A. K. Das, J. D. Sarma, Data in Brief 29 (2020) 105114",
}


@dataclass(frozen=True)
class HeldOut:
    """What the models of all folds said of bags they had not seen.

    Attributes
    ----------
    labels, folds
        (B,) of each bag.
    logits
        (B, 2).
    distances
        (B,) of the bag's patches from the training of that fold.
    """

    labels: NDArray[np.int64]
    folds: NDArray[np.int64]
    logits: NDArray[np.float32]
    distances: NDArray[np.float64]


@dataclass(frozen=True)
class Trained:
    """A trained network, and what its features looked like."""

    network: Clam
    scaler: Scaler
    reference: FeatureReference


def train(fields: Sequence[FieldFeatures], settings: TrainingSettings = SETTINGS) -> Trained:
    """Train on fields, in blocks of neighbours."""
    scaler = fit_scaler(fields)
    torch.manual_seed(settings.seed)
    network = Clam(ClamShape(ENCODERS[ENCODER].dim, len(CLASSES)), dropout=settings.dropout)
    fit(network, [FieldBag(block, scaler) for block in blocks_of(fields, FIELDS_PER_BAG)], [], settings)
    reference = fit_reference(np.concatenate([view for item in fields for view in item.views]))
    return Trained(network, scaler, reference)


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
        scores[inside] = logistic_scores(means[~inside], labels[~inside], means[inside])
    logits = np.stack([np.zeros_like(scores), scores], axis=1).astype(np.float32)
    return HeldOut(labels, folds, logits, np.zeros(len(fields)))


def measured(held_out: HeldOut) -> dict[str, Any]:
    """Return AUC and balanced accuracy of each fold, their mean and spread, and the AUC over all bags."""
    scores = held_out.logits[:, 1] - held_out.logits[:, 0]
    picks = [held_out.folds == fold for fold in range(FOLDS)]
    areas = [auc(held_out.labels[pick], scores[pick]) for pick in picks]
    right = [balanced_accuracy(held_out.labels[pick], (scores[pick] > 0).astype(int)) for pick in picks]
    pooled = bootstrap_auc(held_out.labels, softmax(held_out.logits))
    return {
        "bags": len(scores),
        "auc": _spread(areas),
        "balanced_accuracy": _spread(right),
        "pooled_auc": {key: round(value, 3) for key, value in asdict(pooled).items()},
        "confusion": confusion(held_out.labels, (scores > 0).astype(int), len(CLASSES)).tolist(),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": round(float(np.mean(values)), 3),
        "sd": round(float(np.std(values, ddof=1)), 3),
        "folds": [round(value, 3) for value in values],
    }


def calibrated(held_out: HeldOut) -> tuple[float, dict[str, float]]:
    """Return the temperature over all folds, and the calibration error without and with one.

    The error with a temperature is honest: each fold is scaled with the temperature of the other folds.
    """
    after = np.zeros(held_out.logits.shape)
    for fold in range(FOLDS):
        inside = held_out.folds == fold
        others = fit_temperature(held_out.logits[~inside], held_out.labels[~inside])
        after[inside] = softmax(held_out.logits[inside], others)
    error = {
        "ece_before": expected_calibration_error(softmax(held_out.logits), held_out.labels),
        "ece_after": expected_calibration_error(after, held_out.labels),
    }
    temperature = fit_temperature(held_out.logits, held_out.labels)
    return temperature, {key: round(value, 3) for key, value in error.items()}


def abstain_rule(views: Sequence[HeldOut]) -> dict[str, float]:
    """Set the limits of distance from bags that were held out, in their own colours and in other stains."""
    distances = np.concatenate([view.distances for view in views])
    return {
        "min_patches": 4,
        "min_tissue_mm2": 0.05,
        "unusual_distance": round(float(np.percentile(distances, 95)), 3),
        "max_distance": round(float(np.percentile(distances, 99.5)), 3),
    }


def build(fields: Sequence[FieldFeatures], encoder: Encoder, out: Path, slides: Path | None = None) -> None:
    """Train, measure and write the package; `slides` is a folder of slides to report on."""
    models = [train([item for item in fields if item.field.fold != fold]) for fold in range(FOLDS)]
    single = [cross_validate(fields, 1, models, view) for view in range(1 + PLAN.restained_views)]
    blocks = cross_validate(fields, FIELDS_PER_BAG, models)
    temperature, calibration = calibrated(blocks)
    final = train(fields)
    final.scaler.fold_into(final.network)
    content: dict[str, Any] = {
        "schema": 1,
        "name": NAME,
        "version": VERSION,
        "classes": list(CLASSES),
        "encoder": {"name": encoder.name, "sha256": encoder.sha256},
        "patches": {"size_px": PLAN.patch_px, "mpp": MPP},
        "tissue": {"preset": "bwh_biopsy"},
        "intended_use": INTENDED_USE,
        "use": "demonstration",
        "licences": LICENCES,
        "calibration": {"temperature": round(temperature, 4)},
        "abstain": abstain_rule(single),
        "performance": {
            "blocks_of_four_fields": measured(blocks),
            "single_fields": measured(single[0]),
            "single_fields_restained": measured(single[1]),
            "single_fields_logistic_regression": measured(baseline(fields)),
            "calibration": calibration,
        },
    }
    weights = final.network.packed()
    write_package(out, content, weights, model_card(content), final.reference)
    if slides is not None:
        # The package is written again with what it says of slides, which only a package can tell.
        content["performance"]["slides"] = said_of_slides(slides, load_model(load_package(out), "cpu"))
        write_package(out, content, weights, model_card(content), final.reference)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train the demonstration model and write its package.")
    parser.add_argument(
        "--tiles", type=Path, required=True, help="the folder oral-scc-rahman2020 with labels.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the package")
    parser.add_argument("--cache", type=Path, help="folder that keeps encoded fields between runs")
    parser.add_argument("--slides", type=Path, help="folder of slides to report on in the card")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    encoder = load_encoder(ENCODER)
    fields = field_features(read_fields(chosen.tiles, MAGNIFICATION), encoder, PLAN, chosen.cache)
    build(fields, encoder, chosen.out, chosen.slides)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
