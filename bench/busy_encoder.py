# SPDX-License-Identifier: Apache-2.0
"""An encoder that remembers when it was busy."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clam_core.encoders import Encoder


class BusyEncoder:
    """Another encoder, its work timed; one thread at a time encodes.

    Parameters
    ----------
    inner
        The encoder.
    """

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner
        self.name, self.dim, self.input_px = inner.name, inner.dim, inner.input_px
        self.sha256, self.numerics, self.precision = inner.sha256, inner.numerics, inner.precision
        self._busy: list[tuple[float, float]] = []

    def frame(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and cut one RGB tile (H, W, 3)."""
        return self._inner.frame(tile)

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB tiles (B, H, W, 3) of any size."""
        return self.encode_framed(np.stack([self.frame(tile) for tile in tiles]))

    def encode_framed(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode tiles that were framed, and note when."""
        begun = time.perf_counter()
        features = self._inner.encode_framed(tiles)
        self._busy.append((begun, time.perf_counter()))
        return features

    def idle_share(self, begun: float, ended: float, apart_s: float) -> float:
        """Return the share of a time in which it was not busy, less what is reported apart."""
        busy = sum(end - start for start, end in self._busy if begun <= start <= ended)
        whole = ended - begun - apart_s
        return (whole - busy) / whole

    def busy_share(self) -> float:
        """Return the share of the time from its first batch to its last in which it was busy."""
        busy = sum(end - start for start, end in self._busy)
        return busy / (self._busy[-1][1] - self._busy[0][0])

    def longest_gaps(self, count: int) -> list[float]:
        """Return the longest times between two batches: among slides of equal length those between them."""
        gaps = sorted(start - end for (_, end), (start, _) in pairwise(self._busy))
        return gaps[-count:]
