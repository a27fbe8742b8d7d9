# SPDX-License-Identifier: Apache-2.0
"""The model card of the demonstration model, written from what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from clam_core.training.trials_table import trials_table

TEMPLATE = """# Model card: {name}, version {version}

**{intended_use}**

## What it is

A CLAM (single branch, gated attention, small) on features of EfficientNet-Lite0 with ImageNet weights. It
tells *{classes}* and exists so that the software can be shown from a click to a result with weights that
anybody may download. **Its honest figures are modest** (below); they are far from what a diagnosis would
need.

## Data

T. Y. Rahman, L. B. Mahanta, A. K. Das, J. D. Sarma: *Histopathological imaging database for oral cancer
analysis*, Data in Brief 29 (2020) 105114, CC BY 4.0. H&E, oral cavity, 230 patients, photographed with a
Leica ICC50 HD (2048 x 1536 px), here as copies squeezed to 224 x 224 px. Used: the 400x fields, without
the 28 pictures that carry both labels and without byte-identical copies; 672 fields (190 normal, 482
carcinoma).

* **There are no slides and no patient identifiers.** Neighbouring numbers look alike, so each class was
  cut into five contiguous blocks, which are the folds. A block border may still cut through a patient.
* **A bag is a block of {fields_per_bag} neighbouring fields of one class and fold**, standing in for a
  slide; in training each draw takes a run of one to all of them.
* Each field is brought back to its aspect ratio (299 x 224 px) and cut into six patches of {patch_px} px;
  patches with little tissue are dropped.
* **Colour.** The camera is bluish and scanners are not: besides the original, three copies of each field
  are trained on whose stains were taken apart (Macenko) and put together again as other laboratories'
  dyes, with patches of varying size (+-20 %), turned and mirrored.

## Scale

Nothing in the data set says how large a pixel is. By eye, nuclei of the spinous layer measure about 10 px
in the restored fields, as they do on a slide at about 1 um/px, which makes a field about 0.3 mm wide. The
package therefore asks for patches of **{patch_px} px at {mpp} um/px** ({patch_um:.0f} um); the truth may
lie between 0.7 and 1.5. At 100x (about 4 um/px) fields separate the
classes a little better, but a patch would be larger than many biopsies.

## Measured

Five contiguous block folds, mean and standard deviation over the folds; the encoder was
not trained on this data.

| | bags | AUC | balanced accuracy | AUC over all bags (95 % interval) |
|---|---|---|---|---|
{rows}

The confidence intervals draw bags, not patients, and are therefore too narrow: the spread over the folds
({fold_list}) says more.

Calibration, on blocks of {fields_per_bag} fields: temperature {temperature}; expected calibration error
{ece_before} before, {ece_after} with the temperature of the other folds.

**Abstains** below {min_patches} patches or {min_tissue} mm2 of tissue, and where the patches lie further
from those of the training than {max_distance} (99.5th percentile of held-out fields, in their own and in
other stains); above {unusual_distance} (95th percentile) the result is *limited*.

## What was tried

AUC, mean and standard deviation over the same five folds; always judged on 400x fields. A gain is the mean
of the paired differences over the folds with its 95 % interval (Student's t), against the row that the trial
is nearest to. Most trials were screened with a logistic regression, which takes seconds where CLAM takes
minutes. Nothing in them was picked by what came out.

{trials}

Fine-tuning ran over blocks 15 and 16 of 16 and the head, four epochs, with one restained copy of each field.
The patients of the 100x fields may be those of 400x fields in another fold, which would flatter the trials
that mix them. Not tried: both magnifications brought to one scale, jitter of the separated stains beside
the restained copies, averages of several heads, other encoders. `make train-demo-trials` measures all of
this anew: about half an hour of one core.

## On real slides

None of these was seen in training. The first one was the ruler for the scale above, and it decided the
tissue preset (the default one drops pieces this small); nothing else was chosen by them. An answer near
one half means that the model does not know.
{slides}

## Notes on version 1

Observed once while it was made; the command does not measure these again.

* The number of epochs and the learning rate were picked from four comparisons on the same folds that the
  figures above come from: they flatter the model a little.
* Attention gains nothing over a logistic regression on the mean of the same patches: the two differ by less
  than the spread over the folds.
* The carcinoma of TCGA-CR-7395 is not recognised.

## Licences

| | |
|---|---|
| checkpoint | {licence_checkpoint} |
| encoder | {licence_encoder} |
| data | {licence_data} |

## Reproduce

`make train-demo TILES=PATH/oral-scc-rahman2020 SLIDES=PATH OUT=FOLDER`, which runs
`python -m clam_core.training.demo --tiles PATH/oral-scc-rahman2020 --out FOLDER --slides PATH`

It computes with one thread, whatever the machine has: on one kind of processor, with the versions of
`requirements/constraints.txt`, the package is the same each time. Another kind adds in another order, which
moves the last digits; with two threads one field of 672 changed its class.
"""

ROWS = {
    "blocks_of_four_fields": "this model, blocks of four fields",
    "single_fields": "this model, single fields",
    "single_fields_restained": "this model, single fields in other stains",
    "single_fields_logistic_regression": "logistic regression on mean features, single fields",
}


def model_card(
    content: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], fields_per_bag: int = 4
) -> str:
    """Write the card of a package described by its ``model.json``, and of what was tried for it."""
    performance, abstain, patches = content["performance"], content["abstain"], content["patches"]
    return TEMPLATE.format(
        name=content["name"],
        version=content["version"],
        intended_use=content["intended_use"],
        classes=" against ".join(content["classes"]),
        fields_per_bag=fields_per_bag,
        patch_px=patches["size_px"],
        mpp=patches["mpp"],
        patch_um=patches["size_px"] * patches["mpp"],
        rows="\n".join(_row(title, performance[key]) for key, title in ROWS.items()),
        fold_list=", ".join(f"{value:.2f}" for value in performance["blocks_of_four_fields"]["auc"]["folds"]),
        temperature=content["calibration"]["temperature"],
        ece_before=performance["calibration"]["ece_before"],
        ece_after=performance["calibration"]["ece_after"],
        min_patches=abstain["min_patches"],
        min_tissue=abstain["min_tissue_mm2"],
        max_distance=abstain["max_distance"],
        unusual_distance=abstain["unusual_distance"],
        trials=trials_table(trials),
        slides="\n" + "\n".join(_slide(row, content["classes"]) for row in performance.get("slides", [])),
        **{f"licence_{kind}": text for kind, text in content["licences"].items()},
    )


def _row(title: str, figures: Mapping[str, Any]) -> str:
    area, right, pooled = figures["auc"], figures["balanced_accuracy"], figures["pooled_auc"]
    return (
        f"| {title} | {figures['bags']} | {area['mean']:.2f} +- {area['sd']:.2f} "
        f"| {right['mean']:.2f} +- {right['sd']:.2f} "
        f"| {pooled['value']:.2f} ({pooled['low']:.2f}-{pooled['high']:.2f}) |"
    )


def _slide(row: Mapping[str, Any], classes: Sequence[str]) -> str:
    assumed = f", {row['assumed_mpp']} um/px assumed" if row["assumed_mpp"] else ""
    opening = f"* **{row['slide']}** ({row['shows']}{assumed}): "
    if "refused" in row:
        return f"{opening}refused. {row['refused']}"
    named = ", ".join(
        f"{name} {value:.2f}" for name, value in zip(classes, row["probabilities"], strict=True)
    )
    return f"{opening}{named} from {row['patches']} patches; {row['quality']}. {row['reason']}"
