# SPDX-License-Identifier: AGPL-3.0-or-later
"""A clock that moves only when told to."""

from __future__ import annotations


class FakeClock:
    """See `orthanc_plugin.clock.Clock`; wall-clock and monotonic time move together, jitter is 0."""

    def __init__(self, now: float = 1_795_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return round(self._now, 3)  # to the millisecond, as the machine's own

    def monotonic(self) -> float:
        return self._monotonic

    def jitter(self) -> float:
        return 0.0

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds

    def shift(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an administrator or NTP does."""
        self._now += seconds
