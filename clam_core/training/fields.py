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
from PIL import Image
from tqdm import tqdm

from clam_core.encoders import Encoder
from clam_core.errors import ParameterError
from clam_core.training.stain import STAINED, optical_density, restained

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]

CLASSES = ("normal", "oscc")
SHOT_SHAPE = (2048, 1536)
"""Width and height, in px, in which the fields were photographed.

The copies at hand are squares of 224 px.
"""


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
    """

    path: Path
    label: int
    number: int
    fold: int


@dataclass(frozen=True)
class CropPlan:
    """How patches are cut from a field.

    Attributes
    ----------
    patch_px
        Side of a patch, in pixels of the field brought back to its aspect ratio (224 px high).
    restained_views
        Copies of each field in other stains, beside the original.
    scale
        In the copies the side of a patch varies by this share.
    tissue_share
        Smallest share of a patch that must be stained.
    seed
        Of the stains and the positions.
    """

    patch_px: int = 112
    restained_views: int = 3
    scale: float = 0.2
    tissue_share: float = 0.3
    seed: int = 2020


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
        Field(folder / row["file"], int(row["label"] == "OSCC"), int(row["number"]), int(row["block_fold"]))
        for row in usable
    ]
    return sorted(fields, key=lambda field: (field.label, field.number))


def blocks_of(fields: Sequence[FieldFeatures], size: int) -> list[tuple[FieldFeatures, ...]]:
    """Group neighbouring fields of one label and fold into blocks of `size`; a last short one is kept."""
    ordered = sorted(fields, key=lambda item: (item.field.label, item.field.fold, item.field.number))
    blocks: list[tuple[FieldFeatures, ...]] = []
    for _, group in groupby(ordered, key=lambda item: (item.field.label, item.field.fold)):
        members = list(group)
        blocks += [tuple(members[start : start + size]) for start in range(0, len(members), size)]
    return blocks


def field_features(
    fields: Sequence[Field], encoder: Encoder, plan: CropPlan, cache: Path | None = None
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
        FieldFeatures(field, tuple(encoder.encode(view) for view in _views(field, plan)))
        for field in tqdm(fields, desc="encoding fields", unit="field")
    ]
    found = [item for item in encoded if all(len(view) for view in item.views)]
    if kept is not None:
        _pack(found, kept)
    return found


def _identity(fields: Sequence[Field], encoder: Encoder, plan: CropPlan) -> str:
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


def _views(field: Field, plan: CropPlan) -> Iterator[Pixels]:
    """Cut the patches (N, side, side, 3) of the original, then of each restained copy."""
    # Numbers, not names or paths: the same field gets the same stains wherever the folder lies.
    rng = np.random.default_rng((plan.seed, field.label, field.number))
    pixels = unsqueezed(field.path)
    yield _stained_only([_crop(pixels, x, y, plan.patch_px) for x, y in _grid(pixels, plan.patch_px)], plan)
    for _ in range(plan.restained_views):
        yield _stained_only(_random_crops(restained(pixels, rng), plan, rng), plan)


def unsqueezed(path: Path) -> Pixels:
    """Read a field and give it back the aspect ratio in which it was photographed, at the same height."""
    with Image.open(path) as image:
        width = round(image.height * SHOT_SHAPE[0] / SHOT_SHAPE[1])
        return np.asarray(image.convert("RGB").resize((width, image.height), Image.Resampling.BICUBIC))


def _grid(pixels: Pixels, side: int) -> list[tuple[int, int]]:
    """Spread the fewest patches that cover the field evenly over it."""
    height, width = pixels.shape[:2]
    columns = np.linspace(0, width - side, -(-width // side)).astype(int)
    rows = np.linspace(0, height - side, -(-height // side)).astype(int)
    return [(int(x), int(y)) for x in columns for y in rows]


def _random_crops(pixels: Pixels, plan: CropPlan, rng: np.random.Generator) -> list[Pixels]:
    """Cut as many patches as the grid has, each of another size and place, turned and mirrored."""
    height, width = pixels.shape[:2]
    crops = []
    for _ in _grid(pixels, plan.patch_px):
        side = int(plan.patch_px * rng.uniform(1 - plan.scale, 1 + plan.scale))
        crop = _crop(pixels, int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1)), side)
        turned = np.rot90(crop, int(rng.integers(4)))
        mirrored = turned[:, ::-1] if rng.random() < 0.5 else turned
        sized = Image.fromarray(np.ascontiguousarray(mirrored)).resize((plan.patch_px, plan.patch_px))
        crops.append(np.asarray(sized))
    return crops


def _crop(pixels: Pixels, x: int, y: int, side: int) -> Pixels:
    return pixels[y : y + side, x : x + side]


def _stained_only(crops: Sequence[Pixels], plan: CropPlan) -> Pixels:
    """Keep the crops that hold tissue, as the tissue mask of a slide would."""
    kept = [
        crop for crop in crops if (optical_density(crop) > STAINED).any(axis=2).mean() >= plan.tissue_share
    ]
    return np.stack(kept) if kept else np.empty((0, plan.patch_px, plan.patch_px, 3), np.uint8)
