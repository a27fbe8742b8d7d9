# SPDX-License-Identifier: Apache-2.0
"""Waiting for what happens soon, in another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable

_LOOK_EVERY_S = 0.02


def wait_until(holds: Callable[[], object], seconds: float = 20, told: Callable[[], object] = str) -> None:
    """Wait until something holds; fail with what `told` returns where it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, told() or f"it did not happen within {seconds:g} s"
        time.sleep(_LOOK_EVERY_S)
