# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which workers are alive and what they offer: kept in memory, learnt from their claims and heartbeats."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from orthanc_plugin.clock import Clock
from orthanc_plugin.errors import ApiError
from orthanc_plugin.queue.leases import TOKENLESS_LEASE_S
from orthanc_plugin.queue.lifecycle import accepts
from orthanc_plugin.queue.values import AnalysisRequest, Grant, Model, replaced
from orthanc_plugin.settings import Settings

from .counters import Counters
from .drained import Drained

_KEPT = 200
_FORMER_KEPT = 4
ALIVE_S = 90.0
"""A worker that was silent for longer counts as gone; claims come every 25 s, heartbeats every 15 s."""
OLDER_ALIVE_S = TOKENLESS_LEASE_S
"""An older worker sends neither, and says nothing while it is at a slide."""


@dataclass(frozen=True)
class Worker:
    """A worker as its last claim described it; `seen` is wall-clock time, `seen_monotonic` decides.

    After `silence_s` seconds without a sign of life it counts as gone, and at once where it `has_left`.
    `process` is the one that claimed last, `former` are those before it, the latest first, and `shared_at` is
    when some of them were last seen to take turns. `is_offer_known` is False where it has made no claim since
    the start, but works under a lease.
    """

    worker_id: str
    user: str
    software: str
    device: str
    models: tuple[Model, ...]
    default_model: str | None
    seen: float
    seen_monotonic: float
    counters: Counters = field(default_factory=dict)
    silence_s: float = ALIVE_S
    has_left: bool = False
    process: str | None = None
    former: tuple[str, ...] = ()
    shared_at: float | None = None
    is_offer_known: bool = True


def followed(known: Worker | None, claimed: Worker) -> Worker:
    """Return a worker as its claim leaves it, after what was known of its name.

    A process that claims again after another one has is still there: two have the same name. One that was
    started anew is followed by nobody.
    """
    if known is None or None in {known.process, claimed.process}:
        return claimed
    if known.process == claimed.process:
        return replaced(claimed, former=known.former, shared_at=known.shared_at)
    shared_at = claimed.seen_monotonic if claimed.process in known.former else known.shared_at
    others = (known.process, *(process for process in known.former if process != claimed.process))
    return replaced(claimed, former=others[:_FORMER_KEPT], shared_at=shared_at)


def permits(settings: Settings, model: Model) -> bool:
    """Tell whether the site lets a model run."""
    if settings.models is None:
        return True
    return any(
        permitted.enabled
        and permitted.name == model.name
        and permitted.version in {None, model.version}
        and permitted.sha256 in {None, model.sha256}
        for permitted in settings.models
    )


def model_for(
    request: AnalysisRequest, models: Iterable[Model], default_model: str | None, settings: Settings
) -> Model | None:
    """Return which of the models that a worker offers would run a request, or None."""
    for model in models:
        if request.model is None and model.name != default_model:
            continue
        if accepts(request, model) and permits(settings, model):
            return model
    return None


class Workers:
    """The workers heard of since the start, the latest 200; and those that are to take nothing more."""

    def __init__(self, clock: Clock, drained: Drained) -> None:
        self._clock = clock
        self._drained = drained
        self._lock = threading.Lock()
        self._workers: dict[str, Worker] = {}
        self._polled_at: float | None = None

    def claimed(self, worker: Worker) -> bool:
        """Note a claim; return whether it shows, for the first time, that two workers go by one name."""
        with self._lock:
            known = self._workers.pop(worker.worker_id, None)
            now = followed(known, worker)
            self._put(now)
            return self.is_shared(now) and not (known is not None and self.is_shared(known))

    def left(self, worker_id: str, user: str, process: str | None) -> None:
        """Note that a worker says goodbye; it is back with its next sign of life.

        A process that another one of its name has followed says it for itself alone, and another user says
        it for nobody: of a worker that is known by its lease the process is not.
        """
        with self._lock:
            known = self._workers.get(worker_id)
            if known is not None and known.user == user and known.process in {None, process}:
                self._put(replaced(self._seen(known, known.counters), has_left=True))

    def heard(self, grant: Grant, counters: Counters) -> None:
        """Note a sign of life under a lease, and what the worker counted if it did.

        A worker at a slide is known by its lease alone after a restart, and an older worker always is: what
        it may offer besides is not.
        """
        with self._lock:
            known = self._workers.get(grant.worker_id) or self._known_by(grant)
            self._put(self._seen(known, counters or known.counters))

    def polled(self, user: str) -> None:
        """Note that an older worker looks for work; it is known by its user where it has done some so."""
        with self._lock:
            self._polled_at = self._clock.monotonic()
            known = self._workers.get(user)
            if known is not None:
                self._put(self._seen(known, known.counters))

    def _put(self, worker: Worker) -> None:
        self._workers[worker.worker_id] = worker
        while len(self._workers) > _KEPT:
            del self._workers[next(iter(self._workers))]

    def _seen(self, worker: Worker, counters: Counters) -> Worker:
        now, monotonic = self._clock.now(), self._clock.monotonic()
        return replaced(worker, seen=now, seen_monotonic=monotonic, counters=counters, has_left=False)

    def _known_by(self, grant: Grant) -> Worker:
        return Worker(
            worker_id=grant.worker_id,
            user=grant.user,
            software="",
            device="",
            models=() if grant.tokenless else (grant.model,),
            default_model=None,
            seen=0.0,
            seen_monotonic=0.0,
            silence_s=OLDER_ALIVE_S if grant.tokenless else ALIVE_S,
            is_offer_known=False,
        )

    def drained(self) -> frozenset[str]:
        """Return the workers that a person wants to take nothing more, whether they were heard of or not.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        return self._drained.names()

    def drains(self, worker_id: str) -> bool:
        """Tell whether a person wants this worker to take nothing more."""
        return worker_id in self.drained()

    def set_drain(self, worker_id: str, *, drain: bool) -> None:
        """Let a worker finish what it has and take nothing more, durably (or take work again).

        Raises
        ------
        ApiError
            404 where no such worker was heard of; 409 where too many are drained.
        StorageError
            Where Orthanc cannot write.
        """
        with self._lock:
            is_known = worker_id in self._workers
        if not is_known and not self.drains(worker_id):
            raise ApiError(404, "unknown_worker", "No worker of this name was heard of since the start.")
        self._drained.put(worker_id, drain=drain)

    def all(self) -> list[Worker]:
        """Return every worker heard of, the latest claim last."""
        with self._lock:
            return list(self._workers.values())

    def is_alive(self, worker: Worker) -> bool:
        """Tell whether a worker was heard of lately."""
        silent_s = self._clock.monotonic() - worker.seen_monotonic
        return not worker.has_left and silent_s <= worker.silence_s

    def alive_count(self) -> int:
        """Return how many workers were heard of lately, also of those that are to take nothing more."""
        return sum(self.is_alive(worker) for worker in self.all())

    def is_polled(self) -> bool:
        """Tell whether an older worker looked for work lately: idle, it asks every half a minute.

        One that is at a slide, and asks for nothing, is known by its lease.
        """
        polled_at = self._polled_at
        return polled_at is not None and self._clock.monotonic() - polled_at <= ALIVE_S

    def is_shared(self, worker: Worker) -> bool:
        """Tell whether two workers went by this name lately."""
        shared_at = worker.shared_at
        return shared_at is not None and self._clock.monotonic() - shared_at <= ALIVE_S

    def shares_name(self, worker_id: str) -> bool:
        """Tell whether another worker goes by this name, too."""
        with self._lock:
            known = self._workers.get(worker_id)
        return known is not None and self.is_shared(known)

    def alive(self) -> list[Worker]:
        """Return the workers that were heard of lately and take work."""
        drained = self.drained()
        return [worker for worker in self.all() if self.is_alive(worker) and worker.worker_id not in drained]
