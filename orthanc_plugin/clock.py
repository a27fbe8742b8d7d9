# SPDX-License-Identifier: AGPL-3.0-or-later
"""Time and chance, as something that a test can hold still."""

from __future__ import annotations

import random
import time
from typing import Protocol


class Clock(Protocol):
    """Where the plugin takes time and chance from."""

    def now(self) -> float:
        """Return seconds since the epoch, UTC: for people and for `not_before`."""

    def monotonic(self) -> float:
        """Return seconds that never jump: for leases and waits."""

    def jitter(self) -> float:
        """Return a random number in 0 to 1, to spread what would happen at once."""


class SystemClock:
    """The machine's own time; see `Clock`."""

    def now(self) -> float:
        """Return seconds since the epoch, to the millisecond."""
        return time.time_ns() // 1_000_000 / 1000

    def monotonic(self) -> float:
        """Return seconds that never jump."""
        return time.monotonic()

    def jitter(self) -> float:
        """Return a random number in 0 to 1."""
        return random.random()  # noqa: S311 - spreads load, guards nothing
