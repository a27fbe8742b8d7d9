# SPDX-License-Identifier: Apache-2.0
"""Progress for whoever watches: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from tqdm import tqdm

from .stages import Position, words

_log = logging.getLogger(__name__)

_LINE_EVERY_S = 15.0


class ProgressView(Protocol):
    """Shows how far the work is."""

    def show(self, position: Position) -> None:
        """Show a position."""
        ...

    def close(self) -> None:
        """Take the display away."""
        ...


class BarView:
    """A bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._bar = tqdm(
            total=100,
            file=stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc:<28}{percentage:3.0f}%|{bar}| {elapsed}{postfix}",
        )

    def show(self, position: Position) -> None:
        """Show a position."""
        self._bar.set_description_str(words(position.stage), refresh=False)
        self._bar.set_postfix_str(position.detail, refresh=False)
        self._bar.update(position.progress * 100 - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class LineView:
    """A line in the log for each stage, and every 15 seconds inside a long one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._shown_at = 0.0

    def show(self, position: Position) -> None:
        """Show a position, if it is news."""
        now = self._clock()
        if position.stage == self._stage and now - self._shown_at < _LINE_EVERY_S:
            return
        self._stage, self._shown_at = position.stage, now
        detail = f" ({position.detail})" if position.detail else ""
        _log.info("%3.0f %% %s%s", position.progress * 100, words(position.stage), detail)

    def close(self) -> None:
        """Nothing stays on the screen."""


def make_view(*, machine_readable: bool, stream: TextIO | None = None) -> ProgressView:
    """Choose a bar where a person watches, lines elsewhere."""
    target = stream if stream is not None else sys.stderr
    return BarView(target) if target.isatty() and not machine_readable else LineView()
