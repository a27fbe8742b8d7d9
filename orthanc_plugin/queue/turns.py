# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose turn it is: the requests that wait for a worker, and those that one has fetched ahead."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Optional

from . import values
from .leases import is_prefetched
from .places import Ordered
from .values import AnalysisRequest

Wanted = tuple[Optional[str], Optional[str]]
"""Model and version that a request asks for."""
Turn = tuple[int, float, str]
Runs = Callable[[AnalysisRequest], bool]


def _wanted(request: AnalysisRequest) -> Wanted:
    return (request.model, request.model_version)


def _turn_of(request: AnalysisRequest) -> Turn:
    return (-request.priority, request.created, request.request_id)


class Turns:
    """Pending requests by priority, then age, apart for each model; whoever uses it holds the index' lock.

    Parameters
    ----------
    get
        Returns a request by its id.
    """

    def __init__(self, get: Callable[[str], AnalysisRequest]) -> None:
        self._get = get
        self._pending: dict[Wanted, Ordered] = {}
        self._prefetched: dict[str, AnalysisRequest] = {}

    def enter(self, request: AnalysisRequest) -> None:
        """Give a request its turn, where it waits for one."""
        if request.status == values.PENDING:
            self._pending.setdefault(_wanted(request), Ordered()).add(_turn_of(request))
        if is_prefetched(request):
            self._prefetched[request.request_id] = request

    def leave(self, request: AnalysisRequest) -> None:
        """Take the turn of a request as it was away."""
        self._prefetched.pop(request.request_id, None)
        if request.status != values.PENDING:
            return
        wanted = _wanted(request)
        queue = self._pending[wanted]
        queue.discard(_turn_of(request))
        if not queue:
            del self._pending[wanted]

    def pending(self, runs: Runs | None = None) -> Iterator[AnalysisRequest]:
        """Yield the pending requests in their turn.

        `runs` tells of one request whether those that want the same model and version are to be looked at:
        a worker is not made to pass over thousands that it cannot do.
        """
        for turn in heapq.merge(*self._queues(runs)):
            yield self._get(turn[2])

    def before(self, request: AnalysisRequest, runs: Runs) -> int:
        """Return how many pending requests have their turn before one; `runs` as for `pending`."""
        turn = _turn_of(request)
        return sum(queue.before(turn) for queue in self._queues(runs))

    def _queues(self, runs: Runs | None) -> list[Ordered]:
        return [queue for queue in self._pending.values() if runs is None or runs(self._get(queue[0][2]))]

    def prefetched(self) -> list[AnalysisRequest]:
        """Return the requests whose workers have not begun, in their turn."""
        return sorted(self._prefetched.values(), key=_turn_of)

    def holds_prefetch(self, worker_id: str) -> bool:
        """Tell whether a worker has a slide fetched ahead already."""
        return any(request.grants[-1].worker_id == worker_id for request in self._prefetched.values())
