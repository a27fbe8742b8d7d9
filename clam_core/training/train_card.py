# SPDX-License-Identifier: Apache-2.0
"""The model card of a model that ``clam-core train`` made."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clam_core.training.crossval import Experiment

TEMPLATE = """# Model card: {name}, version {version}

**{intended_use}**

Use: {use}.

## Training

{kind} on features of {encoder}: {slides} slides of {patients} patients, patches of {patch_px} px at
{mpp} um/px. Classes: {classes}. {folds} folds over patients; in each the next fold chose the epoch. The
final model was trained on all slides for the median number of epochs. Seed {seed}.

## Measured

On slides that the model of the fold had not seen; intervals are 95 %, by drawing slides again.

| fold | slides | epochs | AUC | balanced accuracy |
|---|---|---|---|---|
{rows}
| all | {slides} | | {auc} | {balanced_accuracy:.3f} |

Confusion (rows: truth; columns: prediction):

| | {class_columns} |
|---|{rulers}|
{confusion}

{pictures}Calibration: temperature {temperature}; expected calibration error {ece_before:.3f} before,
{ece_after:.3f} with the temperature of the other folds.

## Licences

| | |
|---|---|
| checkpoint | {checkpoint} |
| encoder | {encoder_licence} |
| data | {data} |
"""


def train_card(content: Mapping[str, Any], experiment: Experiment, pictures: Iterable[str] = ()) -> str:
    """Write the card of a package described by its ``model.json``; `pictures` are files beside it."""
    figures, classes = content["performance"], content["classes"]
    return TEMPLATE.format(
        name=content["name"],
        version=content["version"],
        intended_use=content["intended_use"],
        use=content["use"],
        kind=experiment.blueprint.kind.upper(),
        encoder=content["encoder"]["name"],
        slides=len(experiment.slides),
        patients=len({slide.patient for slide in experiment.slides}),
        patch_px=content["patches"]["size_px"],
        mpp=content["patches"]["mpp"],
        classes=", ".join(classes),
        folds=experiment.folds,
        seed=experiment.settings.seed,
        rows="\n".join(_fold_row(fold) for fold in figures["folds"]),
        auc=_interval(figures["auc"]),
        balanced_accuracy=figures["balanced_accuracy"],
        class_columns=" | ".join(classes),
        rulers="|".join("---" for _ in classes),
        confusion="\n".join(
            f"| {name} | {' | '.join(map(str, row))} |"
            for name, row in zip(classes, figures["confusion"], strict=True)
        ),
        pictures="".join(f"![{Path(name).stem}]({name})\n\n" for name in pictures),
        temperature=content["calibration"]["temperature"],
        ece_before=figures["calibration"]["ece_before"],
        ece_after=figures["calibration"]["ece_after"],
        checkpoint=content["licences"]["checkpoint"],
        encoder_licence=content["licences"]["encoder"],
        data=content["licences"]["data"],
    )


def _fold_row(fold: Mapping[str, Any]) -> str:
    return (
        f"| {fold['fold'] + 1} | {fold['slides']} | {fold['epochs']} | {_interval(fold['auc'])} "
        f"| {fold['balanced_accuracy']:.3f} |"
    )


def _interval(values: Mapping[str, float]) -> str:
    return f"{values['value']:.3f} ({values['low']:.3f}-{values['high']:.3f})"
