# SPDX-License-Identifier: Apache-2.0
"""What was tried to make the demonstration model better, on its folds, whether it helped or not.

``python -m clam_core.training.trials --tiles FOLDER --out trials.json`` measures everything anew. Each trial
is judged on the 400x fields of the fold that it has not seen, like the model itself. A gain counts only where
it lies beyond the spread: where the 95 % interval of the paired differences over the five folds leaves out 0.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from clam_core.encoders import load_encoder
from clam_core.training.field_models import FIELDS_PER_BAG
from clam_core.training.fields import FieldFeatures, blocks_of, field_features, read_fields
from clam_core.training.heldout import FOLDS, HeldOut, from_scores, gain, spread
from clam_core.training.trial_fits import (
    Fit,
    Judge,
    clam,
    clam_on_originals,
    clam_on_whitened,
    fine_tuned,
    frozen_blocks,
    logistic,
    logistic_on_originals,
    nested_logistic,
)
from clam_core.training.views import CropPlan

ENCODER = "efficientnet-lite0"
PLAN = CropPlan()


@dataclass(frozen=True)
class Source:
    """Fields of one magnification, cut by one plan; ``maps`` stops before the last blocks."""

    magnification: str = "400x"
    plan: CropPlan = PLAN
    maps: bool = False


@dataclass(frozen=True)
class Trial:
    """One attempt.

    Attributes
    ----------
    title
        What was done, for the card.
    against
        Title of the trial that it is nearest to.
    fit
        Trains on fields.
    tested
        The 400x fields that are judged; those of the other folds are trained on.
    beside
        More fields of the other folds to train on.
    other_stains
        The same 400x fields where their view 1 is in other stains, to be judged as well; None where the
        trial's own features do not allow it.
    """

    title: str
    against: str
    fit: Fit
    tested: Source = Source()
    beside: tuple[Source, ...] = ()
    other_stains: Source | None = Source()


_MAPS = Source(plan=replace(PLAN, copies=1), maps=True)
_AT_100 = Source("100x", replace(PLAN, copies=1))
_NORMALISED = Source(plan=replace(PLAN, copies=0, normalised=True))

_CLAM = "CLAM, the model as it is"
_ORIGINALS = "logistic regression, original colours"
_COPIES = "logistic regression, with the restained copies"

TRIALS = (
    Trial(_CLAM, _CLAM, clam),
    Trial("CLAM without restained copies", _CLAM, clam_on_originals),
    Trial("CLAM on whitened features (128 directions)", _CLAM, clam_on_whitened),
    Trial(_ORIGINALS, _CLAM, logistic_on_originals),
    Trial(_COPIES, _CLAM, logistic),
    Trial("last two blocks of the encoder fine-tuned", _COPIES, fine_tuned, _MAPS, other_stains=_MAPS),
    Trial("100x fields beside the 400x ones, each at its own scale", _COPIES, logistic, beside=(_AT_100,)),
    Trial("fields normalised to one stain (Macenko)", _ORIGINALS, logistic, _NORMALISED, other_stains=None),
    Trial("penalty chosen inside the training folds", _COPIES, nested_logistic),
)


class Fields:
    """Encoded fields, each source once."""

    def __init__(self, tiles: Path, cache: Path | None) -> None:
        self._tiles = tiles
        self._cache = cache
        self._kept: dict[Source, list[FieldFeatures]] = {}

    def of(self, source: Source) -> list[FieldFeatures]:
        """Read and encode, or return what was encoded before."""
        if source not in self._kept:
            encoder = frozen_blocks() if source.maps else load_encoder(ENCODER)
            fields = read_fields(self._tiles, source.magnification)
            self._kept[source] = field_features(fields, encoder, source.plan, self._cache)
        return self._kept[source]


def judged(fields: Sequence[FieldFeatures], judges: Sequence[Judge], block: int, view: int = 0) -> HeldOut:
    """Let the judge of each fold judge that fold's blocks of `block` fields, in one of their views."""
    labels, folds, scores = [], [], []
    for fold, judge in enumerate(judges):
        for members in blocks_of([item for item in fields if item.field.fold == fold], block):
            labels.append(members[0].field.label)
            folds.append(fold)
            scores.append(judge(np.concatenate([item.views[view] for item in members])))
    return from_scores(np.array(labels), np.array(folds), scores)


def run(trial: Trial, fields: Fields) -> dict[str, Any]:
    """Train and judge one trial in every fold.

    Returns
    -------
    dict
        ``title`` and the AUCs: of ``blocks_of_four_fields``, ``single_fields`` and, where it can be told,
        ``single_fields_restained``.
    """
    tested = fields.of(trial.tested)
    training = [*tested, *(item for source in trial.beside for item in fields.of(source))]
    judges = [trial.fit([item for item in training if item.field.fold != fold]) for fold in range(FOLDS)]
    row = {
        "title": trial.title,
        "against": trial.against,
        "blocks_of_four_fields": spread(judged(tested, judges, FIELDS_PER_BAG).fold_aucs()),
        "single_fields": spread(judged(tested, judges, 1).fold_aucs()),
    }
    if trial.other_stains is not None:
        restained = judged(fields.of(trial.other_stains), judges, 1, view=1)
        row["single_fields_restained"] = spread(restained.fold_aucs())
    return row


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row its gain over its like, in single fields: the most bags, the least noise."""
    folds = {row["title"]: row["single_fields"]["folds"] for row in rows}
    return [row | {"gain": gain(folds[row["title"]], folds[row["against"]])} for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measure what was tried for the demonstration model.")
    parser.add_argument(
        "--tiles", type=Path, required=True, help="the folder oral-scc-rahman2020 with labels.csv"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="file for the figures; trials that it has already are kept"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps encoded fields between runs")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1: sums in one order)")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    fields = Fields(chosen.tiles, chosen.cache)
    kept = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.is_file() else []
    done = {row["title"]: row for row in kept}
    rows: list[dict[str, Any]] = []
    for trial in TRIALS:
        rows.append(done.get(trial.title) or run(trial, fields))
        # After each: what was measured is not lost with a later trial.
        chosen.out.write_text(json.dumps(compared(rows), indent=1) + "\n", encoding="utf-8")
        tqdm.write(f"{trial.title}: AUC {rows[-1]['single_fields']['mean']:.3f} on single fields")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
