# SPDX-License-Identifier: Apache-2.0
"""How far an analysis is, for whoever watches: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

from clam_core.run import Progress

LINE_EVERY_S = 10.0


@contextmanager
def shown_progress(stream: TextIO) -> Iterator[Progress]:
    """Yield a callback that shows the current stage on a stream; of bars only that of the encoder stays."""
    if not stream.isatty():
        yield Lines(stream)
        return
    bars = _Bars(stream)
    try:
        yield bars
    finally:
        bars.close()


class Lines:
    """A line every ten seconds, for log files and pipes.

    Parameters
    ----------
    stream
        Where the lines go.
    clock
        Monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next_at = clock() + LINE_EVERY_S

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a report of the analysis."""
        now = self._clock()
        if now < self._next_at:
            return
        self._next_at = now + LINE_EVERY_S
        share = f" {done:,} of {total:,} ({done / total:.0%})" if total > 1 else ""
        self._stream.write(f"{stage}{share}\n")
        self._stream.flush()


class _Bars:
    """One bar for the stage in hand."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._bar: tqdm[Any] | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take a report of the analysis."""
        if self._bar is None or stage != self._stage:
            self.close()
            self._stage, self._bar = stage, self._new_bar(stage, total)
        self._bar.update(done - self._bar.n)

    def _new_bar(self, stage: str, total: int) -> tqdm[Any]:
        kept = stage == "encode"
        unit = "patch" if kept else "step"
        return tqdm(total=total, desc=stage, unit=unit, leave=kept, file=self._stream)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None
