# SPDX-License-Identifier: AGPL-3.0-or-later
"""Everything open and finished, in memory: what is read without asking Orthanc.

The truth is the series' metadata; the index changes only after a write to it has succeeded. What a restart
may forget (leases, progress, versions) lives here alone.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable

from . import values
from .catalogue import Catalogue, Kind
from .held_leases import HeldLeases, Lease, Live
from .places import place_of
from .series_state import SeriesState
from .turns import Runs, Turns
from .values import AnalysisRequest, replaced

_GONE_KEPT = 1000


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
        self._catalogue = Catalogue()
        self._turns = Turns(self._catalogue.__getitem__)
        # What goes through requests one by one is theirs to ask: whoever does holds `lock` meanwhile.
        self.ordered = self._catalogue.ordered
        self.pending = self._turns.pending
        self._versions: dict[str, int] = {}
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
            return self._catalogue.get(request_id)

    def is_gone(self, request_id: str) -> bool:
        """Tell whether a request went with its series, as far as is remembered."""
        with self.lock:
            return request_id in self._gone

    def snapshot(self) -> list[AnalysisRequest]:
        """Return all requests, ordered by creation and id."""
        with self.lock:
            return list(self.ordered())

    def archived(self, state: SeriesState) -> list[AnalysisRequest]:
        """Return the requests of a series that have left its state for the archive."""
        kept = {request.request_id for request in state.requests}
        with self.lock:
            held = self._catalogue.of_series(state.series_id)
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
            return {request.series for request in self._catalogue.with_status(*values.OPEN)}

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
            for request in self._catalogue.of_series(series_id):
                if request.status == values.PENDING:
                    self._touch(request.request_id)
            self.changed.notify_all()

    def is_arriving(self, series_id: str) -> bool:
        """Tell whether files of a series may still come, as far as is known since the start."""
        with self.lock:
            return series_id in self._arriving

    def request_of_token(self, token_sha256: str) -> AnalysisRequest | None:
        """Return the request that is being worked on under a token."""
        with self.lock:
            request_id = self._held.request_of_token(token_sha256)
            return None if request_id is None else self._catalogue[request_id]

    def is_output(self, series_instance_uid: str) -> bool:
        """Tell whether a DICOM series is the result of any request."""
        with self.lock:
            return series_instance_uid in self._outputs

    def producer(self, series_instance_uid: str) -> AnalysisRequest | None:
        """Return the request whose result a DICOM series is, or will be."""
        with self.lock:
            request = self._catalogue.get(self._outputs.get(series_instance_uid, ""))
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
            for request in self._catalogue.of_series(series_id):
                self._drop(request.request_id)
                self._gone[request.request_id] = series_id
            while len(self._gone) > _GONE_KEPT:
                del self._gone[next(iter(self._gone))]
            self.changed.notify_all()
            return known

    def _put(self, request: AnalysisRequest, lease_for: Callable[[AnalysisRequest], Lease]) -> None:
        request_id = request.request_id
        known = self._catalogue.put(request)
        if known is not None:
            self._turns.leave(known)
        self._turns.enter(request)
        self._held.follow(request, lease_for)
        self._gone.pop(request_id, None)
        for output in request.outputs:
            self._outputs[output.series_instance_uid] = request_id
        self._touch(request_id)

    def _drop(self, request_id: str) -> None:
        self._turns.leave(self._catalogue.drop(request_id))
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
            return [self._catalogue[request_id] for request_id in self._held.overdue(monotonic)]

    def with_status(self, status: str) -> list[AnalysisRequest]:
        """Return all requests in a state."""
        with self.lock:
            return list(self._catalogue.with_status(status))

    def counts(self) -> dict[str, int]:
        """Return how many requests are in each state."""
        counts = dict.fromkeys(values.STATUSES, 0)
        for (_, status), number in self.kinds().items():
            counts[status] += number
        return counts

    def kinds(self) -> dict[Kind, int]:
        """Return how many requests of each model are in each state."""
        with self.lock:
            return self._catalogue.kinds()

    def oldest_open(self) -> dict[Kind, float]:
        """Return when the oldest open request of each model in each state was created."""
        with self.lock:
            return self._catalogue.oldest_open()

    def pending_before(self, request: AnalysisRequest, runs: Runs) -> int:
        """Return how many pending requests have their turn before one; `runs` as for `pending`."""
        with self.lock:
            return self._turns.before(request, runs)

    def prefetched(self) -> list[AnalysisRequest]:
        """Return the requests whose workers have not begun, in their turn."""
        with self.lock:
            return self._turns.prefetched()

    def holds_prefetch(self, worker_id: str) -> bool:
        """Tell whether a worker has a slide fetched ahead already."""
        with self.lock:
            return self._turns.holds_prefetch(worker_id)


def _no_lease(request: AnalysisRequest) -> Lease:
    return Lease(request.fence, 0.0)
