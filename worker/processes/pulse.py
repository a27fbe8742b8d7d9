# SPDX-License-Identifier: Apache-2.0
"""The loop's sign of life, which stays out where the loop, or the work in its hand, stands still."""

from __future__ import annotations

import time
from collections.abc import Callable

from worker.stages import Position, words

from .notify import Supervision, Unsupervised

STALLED_S = 3600.0
"""Work that has not moved for so long hangs, in a driver for instance: only a new process mends that."""

_EVERY_S = 1.0


class Pulse:
    """Tells the supervision that all is well: once a second at most, and at once of another request.

    Parameters
    ----------
    supervision
        Whom to tell.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(
        self, supervision: Supervision | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._supervision = supervision if supervision is not None else Unsupervised()
        self._clock = clock
        self._told_at = float("-inf")
        self._work: tuple[str, Position] | None = None
        self._moved_at = 0.0

    def ready(self) -> None:
        """Say that work is taken from now on."""
        self._supervision.ready()

    def stopping(self) -> None:
        """Say that the end was asked for."""
        self._supervision.stopping()

    def idle(self) -> None:
        """Say that the loop turns, without work in hand."""
        if self._work is not None:
            self._work, self._told_at = None, float("-inf")
        self._tell("Waiting for requests.")

    def working(self, request_id: str, position: Position) -> None:
        """Say how far the work is; nothing where it has stood still for too long."""
        now = self._clock()
        if self._work is None or self._work[0] != request_id:
            self._told_at = float("-inf")
        if self._work != (request_id, position):
            self._work, self._moved_at = (request_id, position), now
        if now - self._moved_at < STALLED_S:
            self._tell(f"Request {request_id[:8]}: {words(position.stage)}, {position.progress:.0%}.")

    def _tell(self, doing: str) -> None:
        now = self._clock()
        if now - self._told_at >= _EVERY_S:
            self._told_at = now
            self._supervision.alive(doing)
