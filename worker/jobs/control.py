# SPDX-License-Identifier: Apache-2.0
"""What the work on one request shares with its heartbeats: how far it is, and whether it must end."""

from __future__ import annotations

import threading

from worker.errors import JobStoppedError, StopReason
from worker.stages import Position, is_begun, position_in


class JobControl:
    """Shared by the thread that works, the one that sends heartbeats and the one that supervises.

    Parameters
    ----------
    prefetch
        Whether the slide is fetched ahead of its turn.
    """

    def __init__(self, *, prefetch: bool = False) -> None:
        self._prefetch = prefetch
        self._changed = threading.Condition()
        self._position = Position()
        self._reason: StopReason | None = None
        self._finished = False
        self._publishing = False

    @property
    def position(self) -> Position:
        """How far the work is now."""
        with self._changed:
            return self._position

    @property
    def prefetch(self) -> bool:
        """Whether the slide was fetched ahead and is not begun: an idle worker may still have it."""
        with self._changed:
            return self._prefetch

    def begin(self) -> None:
        """Say that the slide is begun: its lease is an ordinary one from the next heartbeat on."""
        with self._changed:
            self._prefetch = False

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the work must end, or None."""
        with self._changed:
            return self._reason

    def report(self, position: Position) -> None:
        """Note how far the work is; a new stage wakes the heartbeat.

        Raises
        ------
        JobStoppedError
            If the work must end.
        """
        with self._changed:
            new_stage = position.stage != self._position.stage
            self._position = position
            self._prefetch = self._prefetch and not is_begun(position.stage)
            if new_stage:
                self._changed.notify_all()
        self.check()

    def check(self) -> None:
        """Raise where the work must end.

        Raises
        ------
        JobStoppedError
            With the reason.
        """
        reason = self.stop_reason
        if reason is not None:
            raise JobStoppedError(reason)

    def report_publishing(self) -> None:
        """Say that the result is there and being sent: from now on it is not handed back any more.

        Nor does a heartbeat's "lease lost" end it: that comes as well where the server has just taken the
        result, and the answer to the result itself says which it was.

        Raises
        ------
        JobStoppedError
            If the work was stopped before.
        """
        with self._changed:
            self._publishing = True
        self.report(position_in("publish", 0.0))

    def stop(self, reason: StopReason) -> bool:
        """End the work; the first reason counts. Return whether this one was it."""
        with self._changed:
            too_late = self._publishing and reason in {StopReason.HANDED_BACK, StopReason.LEASE_LOST}
            if self._is_over() or too_late:
                return False
            self._reason = reason
            self._changed.notify_all()
            return True

    def finish(self) -> None:
        """Say that the work is over, which ends its heartbeats."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def wait_for_change(self, seconds: float, stage: str) -> bool:
        """Wait for a stage other than `stage`, or for the end; return whether the work goes on."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over() or self._position.stage != stage, seconds)
            return not self._is_over()

    def wait_for_end(self, seconds: float) -> bool:
        """Wait for the end; return whether the work goes on."""
        with self._changed:
            self._changed.wait_for(self._is_over, seconds)
            return not self._is_over()

    def _is_over(self) -> bool:
        return self._finished or self._reason is not None
