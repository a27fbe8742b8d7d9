# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything open and finished, in memory: what is read without asking Orthanc.

The truth is the series' metadata; the index changes only after a write to it has succeeded. What a restart
may forget (leases, progress, versions) lives here alone.
"""

from __future__ import annotations

import heapq
import math
import threading
import uuid
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from typing import Optional

from . import values
from .codec import SeriesState
from .held_leases import HeldLeases, Lease, Live
from .leases import is_prefetched
from .values import AnalysisRequest, replaced

_GONE_KEPT = 1000


Kind = tuple[str, str]
"""Name of the model that runs or ran (`AnalysisRequest.bound_model`), and state."""

Wanted = tuple[Optional[str], Optional[str]]
PendingKey = tuple[int, float, str]
Place = tuple[float, str]
"""Where a request stands in a list: its creation (seconds since the epoch) and its id."""

START: Place = (0.0, "")
END: Place = (math.inf, "")


def _wanted(request: AnalysisRequest) -> Wanted:
    return (request.model, request.model_version)


def kind_of(request: AnalysisRequest) -> Kind:
    """Return the model and the state that a request is counted under."""
    return (request.bound_model.name, request.status)


def _pending_key(request: AnalysisRequest) -> PendingKey:
    return (-request.priority, request.created, request.request_id)


def place_of(request: AnalysisRequest) -> Place:
    """Return where a request stands in a list."""
    return (request.created, request.request_id)


class _Sorted(list):  # type: ignore[type-arg]
    """A list that stays sorted; keys are unique."""

    def add(self, key: tuple[object, ...]) -> None:
        insort(self, key)

    def discard(self, key: tuple[object, ...]) -> None:
        position = bisect_left(self, key)
        if position < len(self) and self[position] == key:
            del self[position]


class Index:
    """All requests by id, by series and by turn.

    `lock` is held for moments only, and never while anything is read, written or waited for; `changed` is
    notified after every change of a request.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.boot = uuid.uuid4().hex[:8]
        self._counter = 0
        self._states: dict[str, SeriesState] = {}
        self._requests: dict[str, AnalysisRequest] = {}
        self._kinds: dict[Kind, _Sorted] = {}
        self._of_series: dict[str, tuple[str, ...]] = {}
        self._of_study: dict[str, set[str]] = {}
        self._versions: dict[str, int] = {}
        self._pending: dict[Wanted, _Sorted] = {}
        self._prefetched: dict[str, AnalysisRequest] = {}
        self._held = HeldLeases()
        self._outputs: dict[str, str] = {}
        self._arriving: set[str] = set()
        self._gone: dict[str, str] = {}

    def state(self, series_id: str) -> SeriesState | None:
        """Return the state of a series, or None where it has not been read."""
        with self.lock:
            return self._states.get(series_id)

    def get(self, request_id: str) -> AnalysisRequest | None:
        """Return a request, or None."""
        with self.lock:
            return self._requests.get(request_id)

    def is_gone(self, request_id: str) -> bool:
        """Tell whether a request went with its series, as far as is remembered."""
        with self.lock:
            return request_id in self._gone

    def snapshot(self) -> list[AnalysisRequest]:
        """Return all requests, ordered by creation and id."""
        with self.lock:
            return list(self.ordered())

    def ordered(
        self,
        *,
        after: Place = START,
        before: Place = END,
        newest_first: bool = False,
        source: str | None = None,
        holds: Callable[[Kind], bool] = lambda _: True,
    ) -> Iterator[AnalysisRequest]:
        """Yield requests, ordered by creation and id. Hold `lock` meanwhile.

        What is not wanted is not looked at, however many there are.

        Parameters
        ----------
        after, before
            Only those between these places.
        newest_first
            Turn the order round.
        source
            Only those of the series or study with this Orthanc id, whatever `holds` says.
        holds
            Tells of a model and a state whether the requests of that kind are wanted.
        """
        lists: Iterable[_Sorted]
        if source is None:
            lists = (held for kind, held in self._kinds.items() if holds(kind))
        else:
            lists = [self._places(source)]
        places = (_between(held, after, before, newest_first=newest_first) for held in lists)
        for place in heapq.merge(*places, reverse=newest_first):
            yield self._requests[place[1]]

    def _places(self, source: str) -> _Sorted:
        ids = (
            request_id
            for series in self._of_study.get(source, {source})
            for request_id in self._of_series.get(series, ())
        )
        return _Sorted(sorted(place_of(self._requests[request_id]) for request_id in ids))

    def archived(self, state: SeriesState) -> list[AnalysisRequest]:
        """Return the requests of a series that have left its state for the archive."""
        kept = {request.request_id for request in state.requests}
        with self.lock:
            held = [self._requests[request_id] for request_id in self._of_series.get(state.series_id, ())]
        return sorted((request for request in held if request.request_id not in kept), key=place_of)

    def whole(self, state: SeriesState) -> SeriesState:
        """Return a state with the requests that have left it for the archive, as if none had."""
        return replaced(state, requests=(*self.archived(state), *state.requests), folded=0)

    def known_series(self) -> set[str]:
        """Return the Orthanc ids of the series whose requests have been read."""
        with self.lock:
            return set(self._states)

    def open_series(self) -> set[str]:
        """Return the Orthanc ids of the series with open requests."""
        with self.lock:
            return {
                self._requests[request_id].series
                for (_, status), held in self._kinds.items()
                if status in values.OPEN
                for _, request_id in held
            }

    def version(self, request_id: str) -> str:
        """Return an opaque text that differs after every change of a request and after every start."""
        with self.lock:
            return f"{self.boot}-{self._versions.get(request_id, 0)}"

    def live(self, request_id: str) -> Live:
        """Return what the last heartbeat of a request said."""
        with self.lock:
            return self._held.live(request_id)

    def set_arriving(self, series_id: str, *, arriving: bool) -> None:
        """Note whether files of a series may still come, which its pending requests wait for."""
        with self.lock:
            if arriving == (series_id in self._arriving):
                return
            (self._arriving.add if arriving else self._arriving.discard)(series_id)
            for request_id in self._of_series.get(series_id, ()):
                if self._requests[request_id].status == values.PENDING:
                    self._touch(request_id)
            self.changed.notify_all()

    def is_arriving(self, series_id: str) -> bool:
        """Tell whether files of a series may still come, as far as is known since the start."""
        with self.lock:
            return series_id in self._arriving

    def request_of_token(self, token_sha256: str) -> AnalysisRequest | None:
        """Return the request that is being worked on under a token."""
        with self.lock:
            request_id = self._held.request_of_token(token_sha256)
            return None if request_id is None else self._requests[request_id]

    def is_output(self, series_instance_uid: str) -> bool:
        """Tell whether a DICOM series is the result of any request."""
        with self.lock:
            return series_instance_uid in self._outputs

    def producer(self, series_instance_uid: str) -> AnalysisRequest | None:
        """Return the request whose result a DICOM series is, or will be."""
        with self.lock:
            request = self._requests.get(self._outputs.get(series_instance_uid, ""))
            if request is None:
                return None
            uids = {output.series_instance_uid for output in request.outputs}
            return request if series_instance_uid in uids else None

    def replace(self, state: SeriesState, lease_for: Callable[[AnalysisRequest], Lease]) -> None:
        """Take over what was written to a series (or read from it)."""
        with self.lock:
            old = self._states.get(state.series_id)
            before = {} if old is None else {request.request_id: request for request in old.requests}
            for request in state.requests:
                if before.pop(request.request_id, None) is not request:
                    self._put(request, lease_for)
            for request_id in before:
                self._drop(request_id)
            self._states[state.series_id] = state
            self.changed.notify_all()

    def add_archived(self, requests: tuple[AnalysisRequest, ...]) -> None:
        """Make requests known that lie in a series' archive, no longer in its state."""
        with self.lock:
            for request in requests:
                self._put(request, _no_lease)

    def forget_series(self, series_id: str) -> SeriesState | None:
        """Drop all requests of a deleted series, remember that they are gone; return all that was known."""
        with self.lock:
            state = self._states.pop(series_id, None)
            known = None if state is None else self.whole(state)
            self._arriving.discard(series_id)
            for request_id in self._of_series.get(series_id, ()):
                self._drop(request_id)
                self._gone[request_id] = series_id
            while len(self._gone) > _GONE_KEPT:
                del self._gone[next(iter(self._gone))]
            self.changed.notify_all()
            return known

    def _put(self, request: AnalysisRequest, lease_for: Callable[[AnalysisRequest], Lease]) -> None:
        request_id = request.request_id
        known = self._requests.get(request_id)
        if known is None:
            self._of_series[request.series] = (*self._of_series.get(request.series, ()), request_id)
            self._of_study.setdefault(request.study, set()).add(request.series)
        else:
            self._leave_turn(known)
        self._put_kind(known, request)
        self._requests[request_id] = request
        self._gone.pop(request_id, None)
        for output in request.outputs:
            self._outputs[output.series_instance_uid] = request_id
        self._put_turn(request, lease_for)
        self._touch(request_id)

    def _put_kind(self, known: AnalysisRequest | None, request: AnalysisRequest) -> None:
        kind = kind_of(request)
        if known is not None:
            before = kind_of(known)
            if before == kind:
                return
            self._leave_kind(known, before)
        self._kinds.setdefault(kind, _Sorted()).add(place_of(request))

    def _put_turn(self, request: AnalysisRequest, lease_for: Callable[[AnalysisRequest], Lease]) -> None:
        request_id = request.request_id
        if request.status == values.PENDING:
            self._pending.setdefault(_wanted(request), _Sorted()).add(_pending_key(request))
        if is_prefetched(request):
            self._prefetched[request_id] = request
        self._held.follow(request, lease_for)

    def _leave_turn(self, request: AnalysisRequest) -> None:
        self._prefetched.pop(request.request_id, None)
        if request.status != values.PENDING:
            return
        wanted = _wanted(request)
        queue = self._pending[wanted]
        queue.discard(_pending_key(request))
        if not queue:
            del self._pending[wanted]

    def _leave_kind(self, request: AnalysisRequest, kind: Kind) -> None:
        held = self._kinds[kind]
        held.discard(place_of(request))
        if not held:
            del self._kinds[kind]

    def _leave_series(self, request: AnalysisRequest) -> None:
        left = tuple(other for other in self._of_series[request.series] if other != request.request_id)
        if left:
            self._of_series[request.series] = left
            return
        del self._of_series[request.series]
        of_study = self._of_study.get(request.study, set())
        of_study.discard(request.series)
        if not of_study:
            self._of_study.pop(request.study, None)

    def _drop(self, request_id: str) -> None:
        request = self._requests.pop(request_id)
        self._leave_series(request)
        self._leave_kind(request, kind_of(request))
        self._leave_turn(request)
        self._held.end(request_id)
        self._versions.pop(request_id, None)

    def _touch(self, request_id: str) -> None:
        self._counter += 1
        self._versions[request_id] = self._counter

    def lease(self, request_id: str) -> Lease | None:
        """Return the lease of a request that is being worked on."""
        with self.lock:
            return self._held.get(request_id)

    def renew(self, request_id: str, fence: int, expires_at: float, live: Live) -> None:
        """Give a lease more time, and keep what its heartbeat said."""
        with self.lock:
            if self._held.renew(request_id, fence, expires_at, live):
                self._touch(request_id)
                self.changed.notify_all()

    def overdue(self, monotonic: float) -> list[AnalysisRequest]:
        """Return the requests whose lease has run out."""
        with self.lock:
            return [self._requests[request_id] for request_id in self._held.overdue(monotonic)]

    def with_status(self, status: str) -> list[AnalysisRequest]:
        """Return all requests in a state."""
        with self.lock:
            return [
                self._requests[request_id]
                for kind, held in self._kinds.items()
                if kind[1] == status
                for _, request_id in held
            ]

    def counts(self) -> dict[str, int]:
        """Return how many requests are in each state."""
        with self.lock:
            counts = dict.fromkeys(values.STATUSES, 0)
            for (_, status), held in self._kinds.items():
                counts[status] += len(held)
            return counts

    def kinds(self) -> dict[Kind, int]:
        """Return how many requests of each model are in each state."""
        with self.lock:
            return {kind: len(held) for kind, held in self._kinds.items()}

    def oldest_open(self) -> dict[Kind, float]:
        """Return when the oldest open request of each model in each state was created."""
        with self.lock:
            return {kind: held[0][0] for kind, held in self._kinds.items() if kind[1] in values.OPEN}

    def pending(self, runs: Callable[[AnalysisRequest], bool] | None = None) -> Iterator[AnalysisRequest]:
        """Yield the pending requests in their turn: priority, then age. Hold `lock` meanwhile.

        `runs` tells of one request whether those that want the same model and version are to be looked at:
        a worker is not made to pass over thousands that it cannot do.
        """
        for key in heapq.merge(*self._queues(runs)):
            yield self._requests[key[2]]

    def pending_before(self, request: AnalysisRequest, runs: Callable[[AnalysisRequest], bool]) -> int:
        """Return how many pending requests have their turn before one; `runs` as for `pending`."""
        key = _pending_key(request)
        with self.lock:
            return sum(bisect_left(queue, key) for queue in self._queues(runs))

    def _queues(self, runs: Callable[[AnalysisRequest], bool] | None) -> list[_Sorted]:
        return [
            queue for queue in self._pending.values() if runs is None or runs(self._requests[queue[0][2]])
        ]

    def prefetched(self) -> list[AnalysisRequest]:
        """Return the requests whose workers have not begun, in their turn."""
        with self.lock:
            return sorted(self._prefetched.values(), key=_pending_key)

    def holds_prefetch(self, worker_id: str) -> bool:
        """Tell whether a worker has a slide fetched ahead already."""
        with self.lock:
            return any(request.grants[-1].worker_id == worker_id for request in self._prefetched.values())


def _between(places: _Sorted, after: Place, before: Place, *, newest_first: bool) -> Iterator[Place]:
    """Yield the places between two."""
    numbers = range(bisect_right(places, after), bisect_left(places, before))
    return (places[number] for number in (reversed(numbers) if newest_first else numbers))


def _no_lease(request: AnalysisRequest) -> Lease:
    return Lease(request.fence, 0.0)
