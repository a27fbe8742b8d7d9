# SPDX-License-Identifier: Apache-2.0
"""Labelled microscope fields: from pictures with contiguous folds to the features of their patches.

The data set of the demonstration model (T. Y. Rahman et al., Data in Brief 29 (2020) 105114) holds single
fields, no slides and no patients. Neighbouring numbers look alike, so folds are contiguous blocks, and so
are bags.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from clam_core.encoders import TileEncoder
from clam_core.errors import ParameterError
from clam_core.training.views import CropPlan, Pixels, field_views

Features = NDArray[np.float32]

CLASSES = ("normal", "oscc")


@dataclass(frozen=True)
class Field:
    """One picture.

    Attributes
    ----------
    path
        Where it lies.
    label
        Index into `CLASSES`.
    number
        Its number within label and magnification: neighbours may show one patient.
    fold
        The contiguous block, 0 to 4, that it belongs to.
    magnification
        ``"400x"`` or ``"100x"``.
    """

    path: Path
    label: int
    number: int
    fold: int
    magnification: str = "400x"


@dataclass(frozen=True)
class FieldFeatures:
    """The features of one field's patches, view by view; view 0 is the original."""

    field: Field
    views: tuple[Features, ...]


def read_fields(folder: Path, magnification: str) -> list[Field]:
    """Read the list of fields of one magnification, conflicts and duplicates left out.

    Parameters
    ----------
    folder
        Holds ``labels.csv`` and the pictures.
    magnification
        ``"400x"`` or ``"100x"``.

    Returns
    -------
    list of Field
        By label, then number.

    Raises
    ------
    ParameterError
        If there is no such list, or no such field in it.
    """
    path = folder / "labels.csv"
    if not path.is_file():
        raise ParameterError(f"There is no {path}: name the folder of the oral-scc-rahman2020 tiles.")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["magnification"] == magnification]
    usable = [row for row in rows if row["label_conflict"] == "0" and row["duplicate"] == "0"]
    if not usable:
        raise ParameterError(f"{path} lists no usable field of magnification {magnification!r}.")
    fields = [
        Field(
            folder / row["file"],
            int(row["label"] == "OSCC"),
            int(row["number"]),
            int(row["block_fold"]),
            magnification,
        )
        for row in usable
    ]
    return sorted(fields, key=lambda field: (field.label, field.number))


def blocks_of(fields: Sequence[FieldFeatures], size: int) -> list[tuple[FieldFeatures, ...]]:
    """Group neighbouring fields of one label, fold and magnification into blocks of `size`.

    A last short block is kept.
    """
    ordered = sorted(fields, key=lambda item: (*_group(item.field), item.field.number))
    blocks: list[tuple[FieldFeatures, ...]] = []
    for _, group in groupby(ordered, key=lambda item: _group(item.field)):
        members = list(group)
        blocks += [tuple(members[start : start + size]) for start in range(0, len(members), size)]
    return blocks


def _group(field: Field) -> tuple[str, int, int]:
    return field.magnification, field.label, field.fold


def field_features(
    fields: Sequence[Field], encoder: TileEncoder, plan: CropPlan, cache: Path | None = None
) -> list[FieldFeatures]:
    """Encode the patches of every field, in its own colours and in other stains.

    Parameters
    ----------
    fields
        What to encode.
    encoder
        With what.
    plan
        How patches are cut.
    cache
        A folder that keeps the result; asked again for the same, nothing is encoded.

    Returns
    -------
    list of FieldFeatures
        In the order of `fields`, those without any stained patch left out.
    """
    kept = None if cache is None else cache / f"fields-{_identity(fields, encoder, plan)}.npz"
    if kept is not None and kept.is_file():
        return _unpacked(fields, kept)
    encoded = [
        FieldFeatures(field, tuple(encoder.encode(view) for view in views_of(field, plan)))
        for field in tqdm(fields, desc="encoding fields", unit="field")
    ]
    found = [item for item in encoded if all(len(view) for view in item.views)]
    if kept is not None:
        _pack(found, kept)
    return found


def _identity(fields: Sequence[Field], encoder: TileEncoder, plan: CropPlan) -> str:
    names = [f"{field.path.parent.name}/{field.path.name}" for field in fields]
    described = json.dumps([names, encoder.sha256, asdict(plan)], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _pack(found: Sequence[FieldFeatures], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{item.field.path.name}/{number}": view for item in found for number, view in enumerate(item.views)
    }
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _unpacked(fields: Sequence[Field], path: Path) -> list[FieldFeatures]:
    with np.load(path, allow_pickle=False) as arrays:
        views = len({name.rpartition("/")[2] for name in arrays.files})
        return [
            FieldFeatures(field, tuple(arrays[f"{field.path.name}/{number}"] for number in range(views)))
            for field in fields
            if f"{field.path.name}/0" in arrays.files
        ]


def views_of(field: Field, plan: CropPlan) -> Iterator[Pixels]:
    """Cut the patches (N, side, side, 3) of a field, view by view."""
    # Numbers, not names or paths: the same field gets the same stains wherever the folder lies.
    return field_views(field.path, plan, np.random.default_rng((plan.seed, field.label, field.number)))
