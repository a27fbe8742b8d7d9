# SPDX-License-Identifier: Apache-2.0
"""Cross-validation over patients that can be stopped and goes on where it stopped, and the final model."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.models.prediction import AggregatorNetwork
from clam_core.models.untrained import Blueprint
from clam_core.tensors import sha256_of
from clam_core.training.dataset import LabelledSlide, SlideBag
from clam_core.training.engine import TrainingSettings, bag_logits, fit
from clam_core.training.metrics import (
    balanced_accuracy,
    bootstrap_auc,
    confusion,
    expected_calibration_error,
    fit_temperature,
    softmax,
)
from clam_core.training.splits import fold_split, patient_folds
from clam_core.training.state import Epoch


@dataclass(frozen=True)
class FoldResult:
    """What the model of one fold said of slides it had not seen.

    Attributes
    ----------
    fold
        Its number.
    epochs
        After how many it was best.
    slides
        Names of the tested slides.
    labels
        (B,)
    logits
        (B, C)
    """

    fold: int
    epochs: int
    slides: tuple[str, ...]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Experiment:
    """Everything that decides the outcome of a training.

    Attributes
    ----------
    slides
        What is learnt from.
    blueprint
        What is trained.
    settings
        How it is trained.
    folds
        Their number.
    device
        Where it is trained.
    """

    slides: tuple[LabelledSlide, ...]
    blueprint: Blueprint
    settings: TrainingSettings
    folds: int
    device: str = "cpu"

    @cached_property
    def identity(self) -> str:
        """Name of the experiment: another one never resumes from its files.

        Features of two encoders may have one size: only their content tells them apart.
        """
        rows = [(slide.patient, slide.slide, slide.label, sha256_of(slide.path)) for slide in self.slides]
        said = json.dumps([rows, asdict(self.blueprint), asdict(self.settings), self.folds], default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def cross_validate(
    experiment: Experiment, folder: Path, report: Callable[[int, Epoch], None] = lambda *_: None
) -> list[FoldResult]:
    """Train and test every fold; what an earlier run has done is read from `folder`.

    Parameters
    ----------
    experiment
        What to do.
    folder
        Keeps the result of each finished fold, and the state of the one in training.
    report
        Is told each fold's epochs.
    """
    labels = {slide.patient: slide.label for slide in experiment.slides}
    dealt = patient_folds(labels, experiment.folds, experiment.settings.seed)
    kept = _kept(experiment, folder)
    results = []
    for fold in range(experiment.folds):
        path, state = kept / f"fold-{fold}.json", kept / f"fold-{fold}.safetensors"
        if not path.is_file():
            _write_fold(_run_fold(experiment, dealt, fold, partial(report, fold), state), path)
        state.unlink(missing_ok=True)
        results.append(_read_fold(path))
    return results


def _kept(experiment: Experiment, folder: Path) -> Path:
    kept = folder / experiment.identity
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def _run_fold(
    experiment: Experiment, dealt: dict[str, int], fold: int, report: Callable[[Epoch], None], state: Path
) -> FoldResult:
    split = fold_split(dealt, [slide.patient for slide in experiment.slides], fold)
    bags = [SlideBag(slide) for slide in experiment.slides]
    network = new_network(experiment)
    epochs = fit(
        network,
        [bags[index] for index in split.training],
        [bags[index] for index in split.validation],
        experiment.settings,
        report,
        state,
    )
    return FoldResult(
        fold=fold,
        epochs=_best_epoch(epochs),
        slides=tuple(experiment.slides[index].slide for index in split.test),
        labels=np.array([experiment.slides[index].label for index in split.test]),
        logits=bag_logits(network, [bags[index] for index in split.test]),
    )


def new_network(experiment: Experiment) -> AggregatorNetwork:
    """Make an untrained network, the same one for the same seed on every device."""
    torch.manual_seed(experiment.settings.seed)
    return experiment.blueprint.network().to(experiment.device)


def _best_epoch(epochs: Sequence[Epoch]) -> int:
    if epochs[-1].validation is None:
        return len(epochs)
    return min(epochs, key=lambda epoch: epoch.validation or 0.0).number + 1


def _write_fold(result: FoldResult, path: Path) -> None:
    content = asdict(result) | {"labels": result.labels.tolist(), "logits": result.logits.tolist()}
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)


def _read_fold(path: Path) -> FoldResult:
    content = json.loads(path.read_text(encoding="utf-8"))
    return FoldResult(
        fold=content["fold"],
        epochs=content["epochs"],
        slides=tuple(content["slides"]),
        labels=np.array(content["labels"]),
        logits=np.array(content["logits"], dtype=np.float32),
    )


def train_final(experiment: Experiment, results: Sequence[FoldResult], folder: Path) -> AggregatorNetwork:
    """Train on all slides, for as many epochs as the folds' models were best after (their median).

    The state stays in `folder`, so that writing the package again trains nothing.
    """
    epochs = int(np.median([result.epochs for result in results]))
    network = new_network(experiment)
    fit(
        network,
        [SlideBag(slide) for slide in experiment.slides],
        [],
        replace(experiment.settings, max_epochs=epochs),
        keep=_kept(experiment, folder) / "final.safetensors",
    )
    return network.cpu()


def performance(results: Sequence[FoldResult], classes: int) -> dict[str, Any]:
    """Measure the folds' models on the slides that each had not seen.

    Returns
    -------
    dict
        AUC and balanced accuracy of each fold with the bootstrap interval, the same over all slides, the
        confusion matrix, and the calibration error before and after the temperature of the other folds.
    """
    labels = np.concatenate([result.labels for result in results])
    logits = np.concatenate([result.logits for result in results])
    return {
        "slides": len(labels),
        "folds": [_fold_figures(result) for result in results],
        "auc": _rounded(asdict(bootstrap_auc(labels, softmax(logits)))),
        "balanced_accuracy": round(balanced_accuracy(labels, logits.argmax(axis=1)), 4),
        "confusion": confusion(labels, logits.argmax(axis=1), classes).tolist(),
        "calibration": _rounded(_calibration(results)),
    }


def _fold_figures(result: FoldResult) -> dict[str, Any]:
    probabilities = softmax(result.logits)
    return {
        "fold": result.fold,
        "slides": len(result.labels),
        "epochs": result.epochs,
        "auc": _rounded(asdict(bootstrap_auc(result.labels, probabilities))),
        "balanced_accuracy": round(balanced_accuracy(result.labels, result.logits.argmax(axis=1)), 4),
    }


def temperature(results: Sequence[FoldResult]) -> float:
    """Fit the temperature on what the folds' models said of unseen slides."""
    return fit_temperature(
        np.concatenate([result.logits for result in results]),
        np.concatenate([result.labels for result in results]),
    )


def _calibration(results: Sequence[FoldResult]) -> dict[str, float]:
    labels = np.concatenate([result.labels for result in results])
    plain = np.concatenate([softmax(result.logits) for result in results])
    scaled = np.concatenate(
        [softmax(own.logits, temperature([item for item in results if item is not own])) for own in results]
    )
    return {
        "ece_before": expected_calibration_error(plain, labels),
        "ece_after": expected_calibration_error(scaled, labels),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}
