# SPDX-License-Identifier: Apache-2.0
"""Where features of earlier runs come from, and where new ones go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clam_core.features.key import FeatureKey
from clam_core.patches import Coordinates

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """Some patches and their features, as they were encoded together.

    Attributes
    ----------
    coordinates
        Top-left corners, (n, 2) int64, level-0 pixels.
    features
        (n, dim) float32.
    """

    coordinates: Coordinates
    features: Features


class FeatureEntry(Protocol):
    """The features of one key; patches are added as they are encoded, so that nothing is computed twice."""

    def chunks(self) -> Iterator[Chunk]:
        """Yield what is known, verified, in the order in which it was added."""
        ...

    def add(self, chunk: Chunk) -> None:
        """Keep features; never fails: what cannot be kept is computed again one day."""
        ...


class FeatureStore(Protocol):
    """Keeps features by key."""

    def open(self, key: FeatureKey, dim: int) -> AbstractContextManager[FeatureEntry]:
        """Open the entry of a key.

        Parameters
        ----------
        key
            What the features belong to.
        dim
            Values a patch.
        """
        ...


class NoFeatures:
    """A store that keeps nothing."""

    @contextmanager
    def open(self, _key: FeatureKey, _dim: int) -> Iterator[FeatureEntry]:
        """Open an entry that stays empty."""
        yield _Nothing()


class _Nothing:
    """Knows no patch and keeps none."""

    def chunks(self) -> Iterator[Chunk]:
        return iter(())

    def add(self, chunk: Chunk) -> None:
        """Forget it."""
