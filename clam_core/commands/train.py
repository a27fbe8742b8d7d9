# SPDX-License-Identifier: Apache-2.0
"""``clam-core train``: slides or their features, and a table of labels, become a measured model package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from clam_core.arguments import micrometres
from clam_core.commands.convert import add_package_arguments, package_description
from clam_core.device import select_device
from clam_core.errors import ParameterError
from clam_core.models.clam import ATTENTION_WIDTH
from clam_core.models.untrained import UNTRAINED, Blueprint
from clam_core.options import AnalysisOptions
from clam_core.package import EncoderSpec, ModelPackage
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
from clam_core.training.dataset import LabelledSlide, features_in, read_features, read_table
from clam_core.training.engine import TrainingSettings
from clam_core.training.extraction import Extraction, extracted, find_slide
from clam_core.training.losses import LossKind
from clam_core.training.plots import HOW_TO_GET, can_draw, drawn
from clam_core.training.state import Epoch
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
        help="train an aggregator on slides or on their features",
        description="Train an aggregator with cross-validation over patients, and write a model package with "
        "its card. Stopped and started again with the same arguments, it goes on after the last epoch.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--features", type=Path, help="folder with SLIDE.h5 or SLIDE.pt")
    source.add_argument("--slides", type=Path, help="folder of slides, whose features are extracted first")
    parser.add_argument("--labels", type=Path, required=True, help="CSV: patient, slide, label")
    add_package_arguments(parser)
    parser.add_argument("--work", type=Path, help="folder of unfinished work (default: OUT with .work added)")
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument(
        "--slide-mpp", type=micrometres, help="micrometres per pixel of all slides' full resolution"
    )
    parser.add_argument("--aggregator", choices=list(UNTRAINED), default="clam_sb", help="(default: clam_sb)")
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
    if not can_draw():
        tqdm.write(HOW_TO_GET)
    description = package_description(arguments)
    work = arguments.work or arguments.out.with_name(f"{arguments.out.name}.work")
    slides = _slides(arguments, description, work)
    experiment = _experiment(arguments, slides, len(description["classes"]))
    results = _cross_validated(experiment, work)
    network = train_final(experiment, results, work)
    figures = performance(results, len(description["classes"]))
    content = description | {
        "calibration": {"temperature": round(temperature(results), 4)},
        "performance": figures,
    }
    patches = _sampled_patches(experiment.slides)
    reference = fit_reference(patches) if len(patches) >= FEWEST_FOR_REFERENCE else None
    pictures = drawn(results, content["classes"]) if can_draw() else {}
    card = train_card(content, experiment, pictures)
    write_package(arguments.out, content, network.packed(), card, reference, pictures)
    tqdm.write(json.dumps({key: figures[key] for key in ("slides", "auc", "balanced_accuracy")}))
    return 0


def _slides(arguments: argparse.Namespace, description: dict[str, Any], work: Path) -> list[LabelledSlide]:
    """Read the table; from slides, extract their features and bind the package to the encoder's weights."""
    classes = description["classes"]
    if arguments.features is not None:
        slides = read_table(arguments.labels, features_in(arguments.features), classes)
    else:
        slides = read_table(arguments.labels, lambda name: find_slide(arguments.slides, name), classes)
    if not slides:
        raise ParameterError(f"{arguments.labels} lists no slides.")
    if arguments.features is not None:
        return slides
    package = _in_the_making(arguments, description)
    encoder = package.load_encoder(select_device(arguments.device), arguments.encoder_weights)
    description["encoder"]["sha256"] = encoder.sha256
    extraction = Extraction(package, encoder, AnalysisOptions(mpp=arguments.slide_mpp))
    with tqdm(desc="extracting", unit="slide", total=len(slides)) as bar:
        return extracted(slides, work / "features", extraction, lambda _: bar.update())


def _in_the_making(arguments: argparse.Namespace, description: dict[str, Any]) -> ModelPackage:
    """Return what an analysis has to know of a model to read a slide for it; it cannot predict yet."""
    return ModelPackage(
        path=arguments.out,
        name=description["name"],
        version=description["version"],
        classes=tuple(description["classes"]),
        patch_px=arguments.patch_px,
        mpp=arguments.mpp,
        tissue_preset=arguments.tissue_preset,
        sha256="",
        intended_use=description["intended_use"],
        use=description["use"],
        licences=description["licences"],
        encoder=EncoderSpec(**description["encoder"]),
    )


def _experiment(arguments: argparse.Namespace, slides: list[LabelledSlide], classes: int) -> Experiment:
    return Experiment(
        slides=tuple(slides),
        blueprint=Blueprint(
            kind=arguments.aggregator,
            embed_dim=read_features(slides[0].path).shape[1],
            classes=classes,
            size=arguments.size,
            dropout=arguments.dropout,
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
        device=str(select_device(arguments.device)),
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
