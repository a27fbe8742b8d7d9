# SPDX-License-Identifier: AGPL-3.0-or-later
"""Long polls: workers wait for a request, pages for a change. Capped, since each holds a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from orthanc_plugin.clock import Clock

from .index import Index
from .leases import is_due, may_be_taken_over
from .values import AnalysisRequest

_LONGEST_SLEEP_S = 5.0


@dataclass(frozen=True)
class Taker:
    """What a worker is to be given.

    Attributes
    ----------
    runs
        Whether it can run what a request asks for; depends on the wanted model and version alone.
    takes
        Whether it is this worker's turn, of those that can.
    has_room
        Whether it may hold one more at all; asked once, before any request is looked at.
    prefetch
        It still works on another slide: it comes after those that are idle, and takes from nobody.
    """

    runs: Callable[[AnalysisRequest], bool]
    takes: Callable[[AnalysisRequest], bool]
    has_room: Callable[[], bool] = lambda: True
    prefetch: bool = False


@dataclass(eq=False)
class ClaimWaiter:
    """A worker's claim while it is being answered.

    Attributes
    ----------
    assigned
        Id of the request that it is this waiter's turn to take.
    is_over
        The wait has ended without one.
    bell
        Wakes the waiter, who then looks for the reason. Most claims need none, and an event is dear to make.
    """

    worker_id: str
    token_sha256: str
    taker: Taker
    deadline: float
    assigned: str | None = None
    is_over: bool = False
    bell: SimpleQueue[None] = field(default_factory=SimpleQueue)


class ClaimPool:
    """Hands pending requests to waiting workers: first come, first served, one request to one worker."""

    def __init__(self, index: Index, clock: Clock, capacity: int) -> None:
        self._index = index
        self._clock = clock
        self._capacity = capacity
        self._waiters: list[ClaimWaiter] = []
        self._held: dict[str, float] = {}
        self._is_stopped = False

    @property
    def waiting(self) -> int:
        """How many claims are being answered now."""
        return len(self._waiters)

    def enter(self, worker_id: str, token_sha256: str, taker: Taker, wait_s: float) -> ClaimWaiter:
        """Join the queue; an earlier wait of the same worker ends. Beyond the capacity nobody waits."""
        with self._index.lock:
            self.end(worker_id)
            now = self._clock.monotonic()
            waiting = sum(other.deadline > now and not other.is_over for other in self._waiters)
            seconds = 0.0 if waiting >= self._capacity else wait_s
            waiter = ClaimWaiter(worker_id, token_sha256, taker, now + seconds)
            self._waiters.append(waiter)
            self._assign()
            return waiter

    def end(self, worker_id: str) -> None:
        """End the waits of a worker."""
        with self._index.lock:
            for waiter in self._waiters:
                if waiter.worker_id == worker_id and waiter.assigned is None:
                    waiter.is_over = True
                    waiter.bell.put(None)

    def leave(self, waiter: ClaimWaiter) -> None:
        """Leave the queue; what was assigned and not granted goes to the next."""
        with self._index.lock:
            self._waiters.remove(waiter)
            for other in self._waiters:
                if other.token_sha256 == waiter.token_sha256:
                    other.bell.put(None)
            self._assign()

    def wait(self, waiter: ClaimWaiter) -> str | None:
        """Wait until it is the waiter's turn and return the request's id.

        None where the wait is over (see `ClaimWaiter.is_over`), or where the caller should look again for a
        lease under its own token.
        """
        while True:
            with self._index.lock:
                if waiter.assigned is not None:
                    return waiter.assigned
                remaining = waiter.deadline - self._clock.monotonic()
                if waiter.is_over or self._is_stopped or remaining <= 0:
                    waiter.is_over = True
                    return None
            with suppress(Empty):
                waiter.bell.get(timeout=min(remaining, _LONGEST_SLEEP_S))
                return waiter.assigned

    def refuse(self, waiter: ClaimWaiter, hold_s: float) -> None:
        """Put a request back that could not be granted, and let it rest for a while."""
        with self._index.lock:
            if waiter.assigned is not None:
                self._held[waiter.assigned] = self._clock.monotonic() + hold_s
            waiter.assigned = None
            self._assign()

    def release(self, request_ids: list[str]) -> None:
        """Let requests be handed out that were resting."""
        with self._index.lock:
            for request_id in request_ids:
                self._held.pop(request_id, None)
            self._assign()

    def assign(self) -> None:
        """Look through the queue again, after a request became pending or due."""
        with self._index.lock:
            self._assign()

    def stop(self) -> None:
        """End all waits, now and from now on."""
        with self._index.lock:
            self._is_stopped = True
            for waiter in self._waiters:
                waiter.bell.put(None)

    def _assign(self) -> None:
        idle = [waiter for waiter in self._waiters if waiter.assigned is None and not waiter.is_over]
        if not idle:
            return
        now = self._clock.now()
        monotonic = self._clock.monotonic()
        self._held = {held: until for held, until in self._held.items() if until > monotonic}
        taken = {waiter.assigned for waiter in self._waiters} | self._held.keys()
        for waiter in sorted(idle, key=lambda waiter: waiter.taker.prefetch):
            free = (item for item in self._open_to(waiter, now) if item.request_id not in taken)
            self._assign_one(waiter, free)
            taken.add(waiter.assigned)

    def _open_to(self, waiter: ClaimWaiter, now: float) -> Iterator[AnalysisRequest]:
        """Yield what a worker could be given: what waits, then what another has only fetched ahead."""
        for request in self._index.pending(waiter.taker.runs):
            if is_due(request, now):
                yield request
        if not waiter.taker.prefetch:
            for request in self._index.prefetched():
                if may_be_taken_over(request, waiter.worker_id) and waiter.taker.runs(request):
                    yield request

    def _assign_one(self, waiter: ClaimWaiter, free: Iterable[AnalysisRequest]) -> None:
        if any(other.assigned and _are_one(other, waiter) for other in self._waiters):
            return
        if not waiter.taker.has_room():
            return
        request = next((request for request in free if waiter.taker.takes(request)), None)
        if request is not None:
            waiter.assigned = request.request_id
            waiter.bell.put(None)


def _are_one(granted: ClaimWaiter, waiter: ClaimWaiter) -> bool:
    """Tell whether what is being granted to one claim settles another one too.

    A repeated claim must find the lease of its first, not get a second one; a worker holds one lease ahead.
    """
    if granted.token_sha256 == waiter.token_sha256:
        return True
    is_ahead = granted.taker.prefetch and waiter.taker.prefetch
    return is_ahead and granted.worker_id == waiter.worker_id


class PagePool:
    """Lets a bounded number of readers wait for a change."""

    def __init__(self, index: Index, capacity: int) -> None:
        self._index = index
        self._capacity = capacity
        self._waiting = 0
        self._is_stopped = False

    @property
    def waiting(self) -> int:
        """How many readers wait now."""
        return self._waiting

    def wait_until(self, holds: Callable[[], bool], wait_s: float) -> bool:
        """Wait until `holds` (called under the index' lock), or the time is over.

        Returns
        -------
        bool
            False where the pool was full and nobody waited.
        """
        with self._index.changed:
            if wait_s <= 0 or self._is_stopped or holds():
                return True
            if self._waiting >= self._capacity:
                return False
            self._waiting += 1
            try:
                self._index.changed.wait_for(lambda: self._is_stopped or holds(), wait_s)
            finally:
                self._waiting -= 1
            return True

    def look_again(self) -> None:
        """Let those who wait look again: what they wait for may have come with time alone."""
        with self._index.changed:
            self._index.changed.notify_all()

    def stop(self) -> None:
        """End all waits, now and from now on."""
        with self._index.changed:
            self._is_stopped = True
            self._index.changed.notify_all()
