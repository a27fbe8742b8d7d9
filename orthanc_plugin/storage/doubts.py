# SPDX-License-Identifier: AGPL-3.0-or-later
"""Writes of a state that failed, and of which nobody knows whether they took place all the same."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Optional

from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, replaced

OnFound = Callable[[Optional[AnalysisRequest], AnalysisRequest], None]
"""Takes what a request was (None: there was none) and what it is."""


@dataclass(frozen=True)
class Doubt:
    """A write that failed.

    Attributes
    ----------
    before, after
        The whole state of the series without it and the state that was written.
    folded
        What had left that for the archive, which is written first.
    content
        The bytes of `after`.
    context
        That of the call, which was answered that it failed.
    """

    before: SeriesState
    after: SeriesState
    folded: tuple[AnalysisRequest, ...]
    content: bytes
    context: Context

    def changes(self) -> list[tuple[AnalysisRequest | None, AnalysisRequest]]:
        """Return what would have become of which request, beside what it was."""
        pairs = [(self.before.find(item.request_id), item) for item in (*self.after.requests, *self.folded)]
        return [(before, after) for before, after in pairs if before is not after]

    def in_archive(self, archived: tuple[AnalysisRequest, ...]) -> Doubt:
        """Return what of the write the archive has got, though the state has not."""
        folded = tuple(request for request in self.folded if request in archived)
        return replaced(self, after=replaced(self.after, requests=()), folded=folded)


class Doubts:
    """The writes in doubt, one a series at most, and what was found of them and not told yet.

    Whoever uses those of a series holds its lock; what was found is told after that.
    """

    def __init__(self, on_found: OnFound) -> None:
        self._on_found = on_found
        self._held: dict[str, Doubt] = {}
        self._found: deque[Doubt] = deque()

    def of(self, series_id: str) -> Doubt | None:
        """Return the write of a series that is in doubt, or None."""
        return self._held.get(series_id)

    def add(self, doubt: Doubt) -> None:
        """Take a write for doubtful."""
        self._held[doubt.after.series_id] = doubt

    def drop(self, series_id: str) -> None:
        """Take no write of a series for doubtful any more."""
        self._held.pop(series_id, None)

    def found(self, doubt: Doubt) -> None:
        """Note what has taken place."""
        self.drop(doubt.after.series_id)
        self._found.append(doubt)

    def tell(self) -> None:
        """Tell of what was found, once, in the context of the call that was answered otherwise."""
        try:
            found = self._found.popleft()
        except IndexError:
            return
        for before, after in found.changes():
            found.context.run(self._on_found, before, after)

    def series(self) -> tuple[str, ...]:
        """Return the series with a write in doubt."""
        return tuple(self._held)

    def requests(self) -> list[AnalysisRequest]:
        """Return the requests that those writes have changed, if they took place, as they are then."""
        return [after for doubt in tuple(self._held.values()) for _, after in doubt.changes()]
