# SPDX-License-Identifier: Apache-2.0
"""Patches of a microscope field: in its own colours, then in other stains, sizes and positions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clam_core.training.stain import STAINED, normalised, optical_density, restained

Pixels = NDArray[np.uint8]

SHOT_SHAPE = (2048, 1536)
"""Width and height, in px, in which the fields were photographed.

The copies at hand are squares of 224 px.
"""


@dataclass(frozen=True)
class CropPlan:
    """How patches are cut from a field.

    Attributes
    ----------
    patch_px
        Side of a patch, in pixels of the field brought back to its aspect ratio (224 px high).
    normalised
        Whether the first view shows the textbook's stains instead of the field's own.
    copies
        Copies of each field in other stains, beside the first view.
    scale
        In the copies the side of a patch varies by this share.
    tissue_share
        Smallest share of a patch that must be stained.
    seed
        Of the stains and the positions.
    """

    patch_px: int = 112
    normalised: bool = False
    copies: int = 3
    scale: float = 0.2
    tissue_share: float = 0.3
    seed: int = 2020


def field_views(path: Path, plan: CropPlan, rng: np.random.Generator) -> Iterator[Pixels]:
    """Cut the patches (N, side, side, 3) of the first view, then of each copy."""
    pixels = unsqueezed(path)
    shown = normalised(pixels) if plan.normalised else pixels
    yield _stained_only([_crop(shown, x, y, plan.patch_px) for x, y in _grid(shown, plan.patch_px)], plan)
    for _ in range(plan.copies):
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
