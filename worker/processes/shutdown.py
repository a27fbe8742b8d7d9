# SPDX-License-Identifier: Apache-2.0
"""How a worker is asked to end: once politely, twice at once; by signals, a drain or a test."""

from __future__ import annotations

import signal
import threading
from types import FrameType

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name))
"""What asks a process to end: on Windows Ctrl-Break, too, which reaches all that it has started."""
HANG_UP = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))
"""What a terminal sends that goes away, as with a line that breaks: nobody can ask a second time there."""


class ShutdownRequest:
    """Counts the askings.

    Attributes
    ----------
    requested
        Set by the first asking: take no further request.
    at_once
        Set by the second: give back the one in work, too.
    drained
        Set by a person through the server: end after the request in work.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.at_once = threading.Event()
        self.drained = threading.Event()

    def ask(self) -> None:
        """Ask once more."""
        if self.requested.is_set():
            self.at_once.set()
        self.requested.set()

    def drain(self) -> None:
        """End after the request in work, because a person said so; never hands it back."""
        self.drained.set()

    @property
    def no_more(self) -> bool:
        """Whether no further request may be taken."""
        return self.requested.is_set() or self.drained.is_set()

    def install(self) -> None:
        """Let the signals of `ENDING` ask, and `HANG_UP` at once; call this from the main thread.

        Who has started the worker by ``nohup`` wants it to outlive the terminal.
        """
        for number in ENDING:
            signal.signal(number, self._on_signal)
        for number in HANG_UP:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, self._on_hang_up)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Nothing is logged here: the signal may have arrived in the middle of a line of the log.
        self.ask()

    def _on_hang_up(self, number: int, frame: FrameType | None) -> None:
        self._on_signal(number, frame)
        self._on_signal(number, frame)
