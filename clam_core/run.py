# SPDX-License-Identifier: Apache-2.0
"""What one analysis tells its caller, how long its stages took, and its turn at the encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from clam_core.errors import AnalysisStopped

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``."""
ShouldStop = Callable[[], bool]
EncoderTurn = Callable[[], AbstractContextManager[object]]
"""Makes what is held while a slide's patches are encoded."""


@dataclass
class Run:
    """Progress, timings and the wish to stop, of one analysis."""

    progress: Progress | None
    should_stop: ShouldStop | None
    timings: dict[str, float] = field(default_factory=dict)

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell the caller how far a stage is, and ask whether to go on.

        Raises
        ------
        AnalysisStopped
            If the caller wants no more.
        """
        if self.progress is not None:
            self.progress(stage, done, total)
        if self.should_stop is not None and self.should_stop():
            raise AnalysisStopped("The analysis was stopped because its caller asked for it.")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report the beginning and the end of a stage, and time it."""
        self.report(name, 0, 1)
        with self.timed(name):
            yield
        self.report(name, 1, 1)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count time for a stage; what is counted for another one meanwhile counts there alone."""
        counted, started = sum(self.timings.values()), time.perf_counter()
        yield
        elsewhere = sum(self.timings.values()) - counted
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - started - elsewhere


class LateTurn:
    """A turn at the encoder that is taken when the first patches lie ready, and held to the end.

    Parameters
    ----------
    turn
        Makes what is held.
    run
        Where waiting is reported and timed.
    """

    def __init__(self, turn: EncoderTurn, run: Run) -> None:
        self._turn = turn
        self._run = run
        self._held = ExitStack()
        self._taken = False

    def take(self) -> None:
        """Wait for the turn, unless it was taken before."""
        if not self._taken:
            with self._run.stage("wait"):
                self._held.enter_context(self._turn())
            self._taken = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()
