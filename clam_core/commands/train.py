# SPDX-License-Identifier: Apache-2.0
"""``clam-core train``: features and a table of labels become a measured model package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clam_core.commands.convert import add_package_arguments, package_description
from clam_core.errors import ParameterError
from clam_core.models.clam import ATTENTION_WIDTH, ClamShape
from clam_core.package_writing import write_package
from clam_core.quality import fit_reference
from clam_core.training.crossval import (
    Experiment,
    FoldResult,
    cross_validate,
    performance,
    temperature,
    train_final,
)
from clam_core.training.dataset import LabelledSlide, read_features, read_table
from clam_core.training.engine import Epoch, TrainingSettings
from clam_core.training.losses import LossKind
from clam_core.training.train_card import train_card

REFERENCE_PATCHES = 20_000
"""So many patches, evenly from all slides, describe what the model was trained on."""

FEWEST_FOR_REFERENCE = 200
"""With fewer patches the model does not judge what is unusual."""

DEFAULTS = TrainingSettings()


def add_parser(subparsers: Any) -> None:
    """Add the subcommand to an argparse subparsers action."""
    parser = subparsers.add_parser(
        "train",
        help="train a CLAM on features of slides",
        description="Train a CLAM with cross-validation over patients, and write a model package with its "
        "card. Stopped and started again with the same arguments, it goes on with the next fold.",
    )
    parser.add_argument("--features", type=Path, required=True, help="folder with SLIDE.h5 or SLIDE.pt")
    parser.add_argument("--labels", type=Path, required=True, help="CSV: patient, slide, label")
    add_package_arguments(parser)
    parser.add_argument("--work", type=Path, help="folder of unfinished work (default: OUT with .work added)")
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--multi-branch", action="store_true", help="CLAM_MB instead of CLAM_SB")
    parser.add_argument("--size", choices=list(ATTENTION_WIDTH), default="small")
    parser.add_argument("--learning-rate", type=float, default=DEFAULTS.learning_rate)
    parser.add_argument("--weight-decay", type=float, default=DEFAULTS.weight_decay)
    parser.add_argument("--dropout", type=float, default=DEFAULTS.dropout)
    parser.add_argument("--bag-weight", type=float, default=DEFAULTS.bag_weight)
    parser.add_argument("--bag-loss", choices=[kind.value for kind in LossKind], default="ce")
    parser.add_argument("--instance-loss", choices=[kind.value for kind in LossKind], default="svm")
    parser.add_argument("--k-sample", type=int, default=DEFAULTS.k_sample)
    parser.add_argument("--subtyping", action="store_true", help="other classes' patches are negatives")
    parser.add_argument("--max-epochs", type=int, default=DEFAULTS.max_epochs)
    parser.add_argument("--min-epochs", type=int, default=DEFAULTS.min_epochs)
    parser.add_argument("--patience", type=int, default=DEFAULTS.patience)
    parser.add_argument("--unweighted", action="store_true", help="every slide once an epoch")
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, measure and write the package."""
    description = package_description(arguments)
    experiment = _experiment(arguments, description["classes"])
    work = arguments.work or arguments.out.with_name(f"{arguments.out.name}.work")
    results = _cross_validated(experiment, work)
    network = train_final(experiment, results)
    figures = performance(results, len(description["classes"]))
    content = description | {
        "calibration": {"temperature": round(temperature(results), 4)},
        "performance": figures,
    }
    patches = _sampled_patches(experiment.slides)
    reference = fit_reference(patches) if len(patches) >= FEWEST_FOR_REFERENCE else None
    write_package(arguments.out, content, network.packed(), train_card(content, experiment), reference)
    tqdm.write(json.dumps({key: figures[key] for key in ("slides", "auc", "balanced_accuracy")}))
    return 0


def _experiment(arguments: argparse.Namespace, classes: list[str]) -> Experiment:
    slides = tuple(read_table(arguments.labels, arguments.features, classes))
    if not slides:
        raise ParameterError(f"{arguments.labels} lists no slides.")
    embed_dim = read_features(slides[0].path).shape[1]
    return Experiment(
        slides=slides,
        shape=ClamShape(
            embed_dim,
            len(classes),
            multi_branch=arguments.multi_branch,
            attention_width=ATTENTION_WIDTH[arguments.size],
        ),
        settings=TrainingSettings(
            learning_rate=arguments.learning_rate,
            weight_decay=arguments.weight_decay,
            bag_weight=arguments.bag_weight,
            bag_loss=LossKind(arguments.bag_loss),
            instance_loss=LossKind(arguments.instance_loss),
            k_sample=arguments.k_sample,
            subtyping=arguments.subtyping,
            dropout=arguments.dropout,
            max_epochs=arguments.max_epochs,
            min_epochs=arguments.min_epochs,
            patience=arguments.patience,
            weighted_sampling=not arguments.unweighted,
            seed=arguments.seed,
        ),
        folds=arguments.folds,
    )


def _cross_validated(experiment: Experiment, work: Path) -> list[FoldResult]:
    with tqdm(desc="training", unit="epoch") as bar:

        def report(fold: int, epoch: Epoch) -> None:
            bar.set_postfix(fold=f"{fold + 1}/{experiment.folds}", loss=f"{epoch.bag_loss:.3f}")
            bar.update()

        return cross_validate(experiment, work, report)


def _sampled_patches(slides: tuple[LabelledSlide, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(0)
    each = max(1, REFERENCE_PATCHES // len(slides))
    parts = []
    for slide in slides:
        features = read_features(slide.path)
        parts.append(features[rng.permutation(len(features))[:each]])
    return np.concatenate(parts)
