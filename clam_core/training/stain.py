# SPDX-License-Identifier: Apache-2.0
"""Stain augmentation: the same tissue as another laboratory's dyes and another camera would show it.

A tile is taken apart into its two stains after M. Macenko et al., "A method for normalizing histology
slides for quantitative analysis", ISBI 2009, and put together again with other stain vectors. What is white
stays white.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
"""Optical densities in red, green and blue of the two dyes (A. C. Ruifrok, D. A. Johnston, 2001)."""

TEXTBOOK = np.stack([HAEMATOXYLIN, EOSIN])

STAINED = 0.15
"""Optical density above which a pixel counts as tissue (Macenko et al.)."""

EXTREMES = (1.0, 99.0)
"""Percentiles of the angle between which the stain vectors lie (Macenko et al.)."""

FEWEST_PIXELS = 256
"""With fewer stained pixels there is nothing to take apart."""


@dataclass(frozen=True)
class StainJitter:
    """How far the new stains may lie from the textbook's.

    Attributes
    ----------
    vector
        Standard deviation added to each component of a stain vector.
    strength
        Half the width of the range, around 1, that the amount of each dye is multiplied by.
    white
        Lowest grey level of the glass.
    """

    vector: float = 0.08
    strength: float = 0.35
    white: int = 225


def restained(
    tile: NDArray[np.uint8], rng: np.random.Generator, jitter: StainJitter | None = None
) -> NDArray[np.uint8]:
    """Show a tile as if it had been stained and photographed elsewhere.

    Parameters
    ----------
    tile
        RGB (H, W, 3).
    rng
        Source of randomness.
    jitter
        How far to go.

    Returns
    -------
    numpy.ndarray
        RGB (H, W, 3); the tile itself where it holds too little tissue.
    """
    chosen = jitter or StainJitter()
    density = optical_density(tile)
    found = stain_vectors(density)
    if found is None:
        return tile
    amounts = np.maximum(density.reshape(-1, 3) @ np.linalg.pinv(found), 0.0)
    amounts *= _typical(amounts) * rng.uniform(1 - chosen.strength, 1 + chosen.strength, size=2)
    white = rng.uniform(chosen.white, 255.0, size=3)
    return _shown(white, amounts @ _random_stains(rng, chosen.vector)).reshape(tile.shape)


def normalised(tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Show a tile (H, W, 3) in the textbook's dyes, as strong as on a well stained slide (Macenko et al.)."""
    density = optical_density(tile)
    found = stain_vectors(density)
    if found is None:
        return tile
    amounts = np.maximum(density.reshape(-1, 3) @ np.linalg.pinv(found), 0.0)
    return _shown(255.0, (amounts * _typical(amounts)) @ _unit(TEXTBOOK)).reshape(tile.shape)


def _shown(white: Floats | float, density: Floats) -> NDArray[np.uint8]:
    """Turn optical densities (N, 3) into bytes, before light of this strength."""
    return np.clip(np.rint(white * np.exp(-density)), 0, 255).astype(np.uint8)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def optical_density(tile: NDArray[np.uint8]) -> Floats:
    """Return how much light each pixel swallows, (H, W, 3), against the tile's own brightest tone.

    The brightest tone of each channel corrects a tinted lamp; it is not allowed to be darker than a grey of
    128, because a tile may hold no glass.
    """
    white = np.maximum(np.percentile(tile.reshape(-1, 3), 99.5, axis=0), 128.0)
    density: Floats = np.maximum(-np.log((tile.astype(np.float64) + 1.0) / (white + 1.0)), 0.0)
    return density


def stain_vectors(density: Floats) -> Floats | None:
    """Find the unit optical densities (2, 3) of haematoxylin, then eosin; None where there is no tissue."""
    stained = density.reshape(-1, 3)
    stained = stained[(stained > STAINED).any(axis=1)]
    if len(stained) < FEWEST_PIXELS:
        return None
    _, axes = np.linalg.eigh(np.cov(stained.T))
    plane = axes[:, [2, 1]] * np.where(axes[:, [2, 1]].sum(axis=0) < 0, -1.0, 1.0)
    angles = np.arctan2(stained @ plane[:, 1], stained @ plane[:, 0])
    edges = np.percentile(angles, EXTREMES)
    vectors = np.abs(np.stack([plane @ (np.cos(edge), np.sin(edge)) for edge in edges]))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if np.linalg.cond(vectors) > 50:
        return None
    # Haematoxylin swallows more red than eosin does.
    ordered: Floats = vectors[np.argsort(-vectors[:, 0])]
    return ordered


def _typical(amounts: Floats) -> Floats:
    """Factors that bring the 99th percentile of each dye to that of a well stained slide (Macenko et al.)."""
    strongest = np.maximum(np.percentile(amounts, 99, axis=0), 0.05)
    return np.clip(np.array([1.9, 1.0]) / strongest, 0.3, 4.0)


def _random_stains(rng: np.random.Generator, deviation: float) -> Floats:
    return _unit(np.clip(TEXTBOOK + rng.normal(0.0, deviation, size=(2, 3)), 0.02, None))
