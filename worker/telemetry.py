# SPDX-License-Identifier: Apache-2.0
"""What this worker counts of itself: sent with each claim and heartbeat, and shown by the plugin's metrics.

A worker opens no port, and a hospital's monitor could not reach one behind NAT: so the numbers take the way
that is open anyway. All but the memory only grow, and begin anew with the process, as Prometheus expects.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from clam_core.encoders import Encoder, Precision

Gauge = Callable[[], Mapping[str, float]]
"""Reads values of the moment, by their names in the contract."""


class Telemetry:
    """The counters; any thread may add to them.

    Parameters
    ----------
    gauges
        Read whenever the counters are.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, gauges: tuple[Gauge, ...] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._gauges = gauges
        self._clock = clock
        self._lock = threading.Lock()
        self._totals: dict[str, float] = {"encode_s": 0.0, "tiles": 0, "read_bytes": 0}

    def add_read(self, size: int) -> None:
        """Count bytes of a slide that were read from Orthanc."""
        with self._lock:
            self._totals["read_bytes"] += size

    def add_encoded(self, tiles: int, seconds: float) -> None:
        """Count patches, and how long the encoder computed on them."""
        with self._lock:
            self._totals["tiles"] += tiles
            self._totals["encode_s"] += seconds

    def counters(self) -> dict[str, float]:
        """Return everything as the contract's ``counters``."""
        with self._lock:
            found = dict(self._totals)
        for gauge in self._gauges:
            found.update(gauge())
        return {name: round(value, 3) for name, value in found.items()}

    def meter(self, session: requests.Session) -> requests.Session:
        """Count what is read of the answers of a session, whatever reads them."""

        def count(answer: requests.Response, **_: object) -> None:
            # All of requests reads through this; what an answer promises may be left unread.
            answer.raw.stream = self._counting(answer.raw.stream)  # type: ignore[method-assign]

        session.hooks["response"].append(count)
        return session

    def _counting(self, stream: Callable[..., Iterator[bytes]]) -> Callable[..., Iterator[bytes]]:
        def counted(*arguments: Any, **named: Any) -> Iterator[bytes]:
            for block in stream(*arguments, **named):
                self.add_read(len(block))
                yield block

        return counted

    def metered(self, encoder: Encoder) -> Encoder:
        """Return the encoder with its work counted."""
        return MeteredEncoder(encoder, self, self._clock)


@dataclasses.dataclass(frozen=True)
class MeteredEncoder:
    """An encoder whose work is counted; all the rest is its own.

    Attributes
    ----------
    inner
        The encoder.
    telemetry
        Where it is counted.
    clock
        A monotonic clock, in seconds.
    """

    inner: Encoder
    telemetry: Telemetry
    clock: Callable[[], float]

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return self.inner.name

    @property
    def dim(self) -> int:
        """Values a tile."""
        return self.inner.dim

    @property
    def input_px(self) -> int:
        """Side of its square input."""
        return self.inner.input_px

    @property
    def sha256(self) -> str:
        """Of its weights file."""
        return self.inner.sha256

    @property
    def numerics(self) -> str:
        """How it computes, in words."""
        return self.inner.numerics

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return self.inner.precision

    def frame(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and cut one RGB tile (H, W, 3)."""
        return self.inner.frame(tile)

    def encode(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB tiles (B, H, W, 3) of any size, and count them."""
        return self._counted(self.inner.encode, tiles)

    def encode_framed(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode tiles that were framed, (B, H, W, 3), and count them."""
        return self._counted(self.inner.encode_framed, tiles)

    def _counted(
        self, encode: Callable[[NDArray[np.uint8]], NDArray[np.float32]], tiles: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        begun = self.clock()
        features = encode(tiles)
        self.telemetry.add_encoded(len(tiles), self.clock() - begun)
        return features


def process_memory() -> Mapping[str, float]:
    """Return the memory that this process holds, where the system tells (Linux)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        return {}
    return {"memory_bytes": pages * os.sysconf("SC_PAGE_SIZE")}
