# SPDX-License-Identifier: Apache-2.0
"""The demonstration model ``oral-scc-demo``: trained, measured and packed by one command.

``python -m clam_core.training.demo --tiles FOLDER --out FOLDER`` reproduces the package that comes with
clam_core, and the figures of its card. See `clam_core.training.fields` for the data.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clam_core.encoders import ENCODERS, Encoder, load_encoder
from clam_core.model import load_model
from clam_core.package import demo_package_path, load_package
from clam_core.package_writing import write_package
from clam_core.training.demo_card import model_card
from clam_core.training.demo_slides import said_of_slides
from clam_core.training.field_models import FIELDS_PER_BAG, baseline, cross_validate, train
from clam_core.training.fields import CLASSES, FieldFeatures, field_features, read_fields
from clam_core.training.heldout import FOLDS, abstain_rule, calibrated, measured
from clam_core.training.views import CropPlan

NAME = "oral-scc-demo"
VERSION = "1"
TRIALS = "trials.json"
ENCODER = "efficientnet-lite0"
MAGNIFICATION = "400x"

MPP = 1.0
"""Micrometres a pixel of a field brought to 224 px height: an estimate, see the card."""

PLAN = CropPlan()

INTENDED_USE = (
    "Demonstration of the software, not for clinical use: trained on 672 microscope fields of oral mucosa, "
    "no slide was seen in training."
)

LICENCES = {
    "checkpoint": "Apache-2.0",
    "encoder": ENCODERS[ENCODER].licence,
    "data": "CC BY 4.0: T. Y. Rahman, L. B. Mahanta, A. K. Das, J. D. Sarma, Data in Brief 29 (2020) 105114",
}


def build(
    fields: Sequence[FieldFeatures],
    encoder: Encoder,
    out: Path,
    trials: Sequence[dict[str, Any]],
    slides: Path | None = None,
) -> None:
    """Train, measure and write the package.

    Parameters
    ----------
    fields
        What is learnt from.
    encoder
        What they were encoded with.
    out
        Folder of the package.
    trials
        What `clam_core.training.trials` measured, for the card.
    slides
        Folder of slides to report on.
    """
    models = [train([item for item in fields if item.field.fold != fold]) for fold in range(FOLDS)]
    single = [cross_validate(fields, 1, models, view) for view in range(1 + PLAN.copies)]
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
    beside = {TRIALS: json.dumps(trials, indent=1).encode() + b"\n"}
    write_package(out, content, weights, model_card(content, trials), final.reference, beside)
    if slides is not None:
        # The package is written again with what it says of slides, which only a package can tell.
        content["performance"]["slides"] = said_of_slides(slides, load_model(load_package(out), "cpu"))
        write_package(out, content, weights, model_card(content, trials), final.reference, beside)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Train the demonstration model and write its package.")
    parser.add_argument(
        "--tiles", type=Path, required=True, help="the folder oral-scc-rahman2020 with labels.csv"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the package")
    parser.add_argument("--cache", type=Path, help="folder that keeps encoded fields between runs")
    parser.add_argument("--slides", type=Path, help="folder of slides to report on in the card")
    parser.add_argument(
        "--trials",
        type=Path,
        default=demo_package_path() / TRIALS,
        help="figures of clam_core.training.trials, for the card (default: those that come with clam_core)",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1: sums in one order)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    encoder = load_encoder(ENCODER)
    fields = field_features(read_fields(chosen.tiles, MAGNIFICATION), encoder, PLAN, chosen.cache)
    trials = json.loads(chosen.trials.read_text(encoding="utf-8"))
    build(fields, encoder, chosen.out, trials, chosen.slides)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
