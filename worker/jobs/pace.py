# SPDX-License-Identifier: Apache-2.0
"""How fast patches are encoded, and how long the rest will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

_WINDOW_S = 30.0
"""The rate is that of so many seconds past: the machine may have had more or less to do before."""


class Pace:
    """The rate of one slide's patches.

    Parameters
    ----------
    usual
        Patches a second of an earlier slide, by which to estimate until this one's rate is measured.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, usual: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._usual = usual
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, done: int) -> None:
        """Note how many patches are done."""
        now = self._clock()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()

    def restart(self) -> None:
        """Forget what was seen: patches that were known are no measure of those that are to be encoded."""
        self._seen.clear()

    @property
    def per_second(self) -> float | None:
        """Patches a second as measured, or None as long as nothing can be said."""
        if len(self._seen) < 2:
            return None
        (begun, first), (ended, last) = self._seen[0], self._seen[-1]
        return (last - first) / (ended - begun) if last > first and ended > begun else None

    def seconds_for(self, patches: int) -> float | None:
        """Return how long so many patches will take, or None."""
        rate = self.per_second or self._usual
        return None if rate is None else patches / rate


def in_words(seconds: float) -> str:
    """Return a duration as a person says it, such as ``2 min 50 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
