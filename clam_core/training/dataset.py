# SPDX-License-Identifier: Apache-2.0
"""Labelled slides: a table of patients, slides and labels, and a folder with the features of each slide."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from clam_core.errors import ParameterError
from clam_core.tensors import read_tensors

Features = NDArray[np.float32]

COLUMNS = ("patient", "slide", "label")


@dataclass(frozen=True)
class LabelledSlide:
    """One row of the table, with the file of its features."""

    patient: str
    slide: str
    label: int
    path: Path


@dataclass(frozen=True)
class SlideBag:
    """A slide as a bag; its features are read when they are first needed, then kept."""

    source: LabelledSlide

    @property
    def label(self) -> int:
        """Class of the slide."""
        return self.source.label

    @cached_property
    def vectors(self) -> Features:
        """Features (N, D)."""
        return read_features(self.source.path)

    def features(self, rng: np.random.Generator | None) -> Features:  # noqa: ARG002 - nothing is drawn
        """Return the features (N, D)."""
        return self.vectors


def features_in(folder: Path) -> Callable[[str], Path]:
    """Return what finds the features of a slide in a folder: ``.h5``, ``.pt`` or ``.safetensors``.

    What it returns raises a ParameterError where there are none.
    """

    def find(slide: str) -> Path:
        found = [folder / f"{slide}{end}" for end in (".h5", ".pt", ".safetensors")]
        existing = [path for path in found if path.is_file()]
        if not existing:
            raise ParameterError(
                f"{folder} has no features of {slide}: there is no {found[0].name}, nor .pt."
            )
        return existing[0]

    return find


def read_table(path: Path, find: Callable[[str], Path], classes: Sequence[str]) -> list[LabelledSlide]:
    """Read the table of labels.

    Parameters
    ----------
    path
        CSV with the columns patient, slide and label.
    find
        Tells the file of a slide: of its features (as CLAM and TRIDENT write them, or a bare tensor), or the
        slide itself where they are still to be extracted.
    classes
        Names that a label may have.

    Returns
    -------
    list of LabelledSlide
        In the order of the table.

    Raises
    ------
    ParameterError
        If a column, a file or a label is missing or unknown, a slide comes twice, or a patient has two
        labels.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ParameterError(f"{path} has no column {missing[0]!r}: it must have {', '.join(COLUMNS)}.")
        rows = [_labelled(row, find, classes, path) for row in reader]
    _check_unique(rows, path)
    return rows


def _labelled(
    row: dict[str, str], find: Callable[[str], Path], classes: Sequence[str], table: Path
) -> LabelledSlide:
    slide, label = row["slide"].strip(), row["label"].strip()
    if label not in classes:
        raise ParameterError(f"{table} labels {slide} {label!r}, which is none of {', '.join(classes)}.")
    return LabelledSlide(row["patient"].strip(), slide, list(classes).index(label), find(slide))


def _check_unique(rows: Sequence[LabelledSlide], table: Path) -> None:
    slides: set[str] = set()
    labels: dict[str, int] = {}
    for row in rows:
        if row.slide in slides:
            raise ParameterError(f"{table} lists {row.slide} twice: keep one row for each slide.")
        if labels.setdefault(row.patient, row.label) != row.label:
            raise ParameterError(
                f"{table} gives patient {row.patient} two labels: splits by patient need one for each."
            )
        slides.add(row.slide)


def read_features(path: Path) -> Features:
    """Read the features (N, D) of one slide.

    Raises
    ------
    ParameterError
        If the file holds no matrix of features.
    CheckpointError, UnsupportedCheckpointError
        If a torch file is damaged, or wants to run code.
    """
    values = _from_h5(path) if path.suffix == ".h5" else _from_tensors(path)
    if values.ndim != 2 or len(values) == 0 or not np.isfinite(values).all():
        raise ParameterError(f"{path} holds no finite matrix of features (patches, values).")
    return np.ascontiguousarray(values, dtype=np.float32)


def _from_h5(path: Path) -> NDArray[np.floating]:
    try:
        with h5py.File(path, "r") as file:
            values = np.asarray(file["features"])
    except (OSError, KeyError) as error:
        raise ParameterError(f"{path} is no h5 file with features ({error}): extract them again.") from error
    # TRIDENT may put a dimension for the slide before those of the patches.
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _from_tensors(path: Path) -> NDArray[np.floating]:
    tensors = read_tensors(path, bare_as="features")
    if "features" not in tensors:
        raise ParameterError(f"{path} holds no tensor named features: extract them again.")
    values: NDArray[np.floating] = tensors["features"].to(torch.float32).numpy()
    return values
