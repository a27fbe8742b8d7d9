# SPDX-License-Identifier: Apache-2.0
"""Patches of a microscope field: in its own colours, then in other stains, sizes and positions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clam_core.training.stain import STAINED, normalised, optical_density, restained

Pixels = NDArray[np.uint8]
Recolour = Callable[[Pixels, np.random.Generator], Pixels]

SHOT_SHAPE = (2048, 1536)
"""Width and height, in px, in which the fields were photographed.

The copies at hand are squares of 224 px.
"""


class Colours(StrEnum):
    """What is done to the colours of a field."""

    RESTAINED = "restained"
    """The first view is the original; the copies are restained at random, by Macenko's stains."""
    NORMALISED = "normalised"
    """All views show the stains of one textbook slide."""


@dataclass(frozen=True)
class CropPlan:
    """How patches are cut from a field.

    Attributes
    ----------
    patch_px
        Side of a patch, in pixels of the field brought to `height_px`.
    height_px
        What the field's height is brought to; its width follows from the aspect ratio of the camera.
    most_patches
        So many of each view are kept, spread evenly.
    copies
        Recoloured copies of each field, beside the first view.
    colours
        How.
    scale
        In the copies the side of a patch varies by this share.
    tissue_share
        Smallest share of a patch that must be stained.
    seed
        Of the stains and the positions.
    """

    patch_px: int = 112
    height_px: int = 224
    most_patches: int = 6
    copies: int = 3
    colours: Colours = Colours.RESTAINED
    scale: float = 0.2
    tissue_share: float = 0.3
    seed: int = 2020


def field_views(path: Path, plan: CropPlan, rng: np.random.Generator) -> Iterator[Pixels]:
    """Cut the patches (N, side, side, 3) of the first view, then of each copy."""
    pixels = unsqueezed(path, plan.height_px)
    first, recolour = _FIRST[plan.colours], _COPY[plan.colours]
    shown = first(pixels, rng)
    yield _stained_only([_crop(shown, x, y, plan.patch_px) for x, y in _grid(shown, plan)], plan)
    for _ in range(plan.copies):
        yield _stained_only(_random_crops(recolour(pixels, rng), plan, rng), plan)


def _as_it_is(pixels: Pixels, _: np.random.Generator) -> Pixels:
    return pixels


def _normalised(pixels: Pixels, _: np.random.Generator) -> Pixels:
    return normalised(pixels)


_FIRST: dict[Colours, Recolour] = {
    Colours.RESTAINED: _as_it_is,
    Colours.NORMALISED: _normalised,
}
_COPY: dict[Colours, Recolour] = {
    Colours.RESTAINED: restained,
    Colours.NORMALISED: _normalised,
}


def unsqueezed(path: Path, height: int = 224) -> Pixels:
    """Read a field and give it back the aspect ratio in which it was photographed, at some height in px."""
    with Image.open(path) as image:
        width = round(height * SHOT_SHAPE[0] / SHOT_SHAPE[1])
        return np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def _grid(pixels: Pixels, plan: CropPlan) -> list[tuple[int, int]]:
    """Spread the fewest patches that cover the field evenly over it; of too many, some evenly."""
    height, width = pixels.shape[:2]
    side = plan.patch_px
    columns = np.linspace(0, width - side, -(-width // side)).astype(int)
    rows = np.linspace(0, height - side, -(-height // side)).astype(int)
    corners = [(int(x), int(y)) for x in columns for y in rows]
    if len(corners) <= plan.most_patches:
        return corners
    return [corners[index] for index in np.linspace(0, len(corners) - 1, plan.most_patches).astype(int)]


def _random_crops(pixels: Pixels, plan: CropPlan, rng: np.random.Generator) -> list[Pixels]:
    """Cut as many patches as the grid has, each of another size and place, turned and mirrored."""
    height, width = pixels.shape[:2]
    crops = []
    for _ in _grid(pixels, plan):
        side = min(int(plan.patch_px * rng.uniform(1 - plan.scale, 1 + plan.scale)), height, width)
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
