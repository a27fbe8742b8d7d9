# SPDX-License-Identifier: Apache-2.0
"""How long to wait before the next attempt, and how."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

Wait = Callable[[float], bool]
"""Waits the given seconds; True where the wait was cut short and no further attempt is wanted."""


def uninterrupted(seconds: float) -> bool:
    """Wait, as a `Wait` that nothing cuts short."""
    time.sleep(seconds)
    return False


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with full jitter.

    The wait before attempt n is uniform in [0, min(cap, base x 2^n)]: many workers that lost the same server
    come back spread out ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Attributes
    ----------
    base_s
        Upper bound of the first wait, in seconds.
    cap_s
        Upper bound of every wait, in seconds.
    uniform
        ``uniform(low, high)``: the source of randomness.
    """

    base_s: float = 0.5
    cap_s: float = 30.0
    uniform: Callable[[float, float], float] = random.uniform

    def delay(self, failures: int, at_least_s: float = 0.0) -> float:
        """Return the seconds to wait after `failures` failures in a row (0 for the first).

        A server's ``Retry-After`` (`at_least_s`) is respected and spread by the same jitter.
        """
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures, 30))
        return at_least_s + self.uniform(0.0, ceiling)
