# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is at the encoder, where the next slide is prepared while one is encoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .control import JobControl

_TICK_S = 0.2
"""How late an order to stop may be noticed; a turn that becomes free is taken at once."""


class EncoderTurns:
    """The encoder's one place, shared by the requests in hand."""

    def __init__(self) -> None:
        self._place = threading.Lock()

    @contextmanager
    def take(self, control: JobControl) -> Iterator[None]:
        """Wait for the place and hold it; a slide that was fetched ahead begins with it.

        Raises
        ------
        JobStoppedError
            If the work was stopped while it waited.
        """
        while not self._place.acquire(timeout=_TICK_S):
            control.check()
        try:
            control.begin()
            yield
        finally:
            self._place.release()
