# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts that every use of the queue works with, and how a request is found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from orthanc_plugin.audit import Audit
from orthanc_plugin.clock import Clock
from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.fleet.workers import Workers
from orthanc_plugin.gateway import Gateway
from orthanc_plugin.queue.index import Index
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.setbacks import Setbacks
from orthanc_plugin.queue.tallies import Tallies
from orthanc_plugin.queue.values import AnalysisRequest, Event
from orthanc_plugin.queue.waiting import ClaimPool, PagePool
from orthanc_plugin.settings import Settings
from orthanc_plugin.storage.copies import Copies
from orthanc_plugin.storage.open_series import OpenSeries
from orthanc_plugin.storage.store import Store, source_deleted, storage_unavailable
from orthanc_plugin.storage.unpublished import Unpublished
from orthanc_plugin.webhook import Webhook

signed_in: ContextVar[str] = ContextVar("signed_in", default="")
"""The user whose call is being answered; nobody where the plugin acts by itself."""


@dataclass
class Readiness:
    """How far the start has come: the open requests are known, then all of them; and whether it ends.

    `unread` are the series whose requests Orthanc could not read; they are tried again.
    """

    open_known: threading.Event = field(default_factory=threading.Event)
    all_known: threading.Event = field(default_factory=threading.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    unread: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Core:
    """One queue on one Orthanc: what it works with, and what it remembers until Orthanc stops.

    Attributes
    ----------
    settings, gateway, clock, audit, warn, webhook
        What it works with; `warn` writes a line of Orthanc's log.
    index, store, tallies
        All requests in memory; the way to change one; what has been counted since the start.
    listed, copies, unpublished
        What the database keeps beside the series: those with open requests; copies of open requests whose
        slide may take them along; DICOM results that belong to no completed request.
    overwrites
        Whether Orthanc lets files be stored in place of others (`OverwriteInstances`).
    claims, pages, workers
        Who waits for a request or a change, and which workers there are.
    ready
        How far the start has come.
    ruled
        Orthanc's LastUpdate of the series that the rules on arrival have been applied to.
    busy
        Requests of which a call stores or deletes the results (see `publish.alone`).
    failing_since
        When Orthanc first failed to store the DICOM results of a request, on the monotonic clock.
    said
        What was logged last of what goes wrong again at each look, by what it is of.
    replacing
        Held while it is seen to what became of a series that was deleted or stored again, one at a time: it
        is taken before the lock of any series, and never while that or the index' is held.
    replaced
        What went with a series that was deleted a moment ago, and when: it may come back.
    replaced_unwritten
        What is to be written again to a series that was stored again.
    exporting
        Held while the patches of a result are written for another program, one at a time.
    """

    settings: Settings
    gateway: Gateway
    clock: Clock
    index: Index
    store: Store
    listed: OpenSeries
    copies: Copies
    overwrites: bool
    unpublished: Unpublished
    claims: ClaimPool
    pages: PagePool
    workers: Workers
    audit: Audit
    warn: Callable[[str], None]
    ready: Readiness = field(default_factory=Readiness)
    tallies: Tallies = field(default_factory=Tallies)
    ruled: dict[str, str] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    failing_since: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    setbacks: Setbacks = field(default_factory=Setbacks)
    replacing: threading.RLock = field(default_factory=threading.RLock)
    replaced: dict[str, tuple[SeriesState, float]] = field(default_factory=dict)
    replaced_unwritten: dict[str, SeriesState] = field(default_factory=dict)
    webhook: Webhook | None = None
    exporting: threading.Lock = field(default_factory=threading.Lock)

    def stop(self) -> None:
        """Wake everybody who waits, so that Orthanc can stop."""
        self.ready.stopping.set()
        self.claims.stop()
        self.pages.stop()


def starting() -> ApiError:
    """Return the answer while the requests are still being read."""
    return ApiError(
        503, "starting", "The plugin is still reading its requests. Try again.", headers={"Retry-After": "1"}
    )


def unavailable(error: StorageError) -> ApiError:
    """Return the answer where Orthanc itself fails."""
    return storage_unavailable(f"{error} Try again.")


def require_open_known(core: Core) -> None:
    """Raise 503 ``starting`` until the open requests are known."""
    if not core.ready.open_known.is_set():
        raise starting()


def find(core: Core, request_id: str) -> AnalysisRequest:
    """Return a request.

    Raises
    ------
    ApiError
        404 where there is none, 410 where it went with its series, 503 where it may not have been read yet.
    """
    request = core.index.get(request_id)
    if request is not None:
        return request
    if core.index.is_gone(request_id):
        raise source_deleted()
    if not is_known_gone(core, request_id):
        raise starting()
    raise unknown_request()


def unknown_request() -> ApiError:
    """Return the answer where there is no such request."""
    return ApiError(404, "unknown_request", "There is no request with this id.")


def is_known_gone(core: Core, request_id: str) -> bool:
    """Tell whether a request that is not known is gone, or never was, rather than yet to be read."""
    everything_is_read = core.ready.all_known.is_set() and not core.ready.unread
    return core.index.is_gone(request_id) or (everything_is_read and not _is_unwritten(core, request_id))


def _is_unwritten(core: Core, request_id: str) -> bool:
    """Tell whether a request went with a slide that was stored again, and is yet to be written to it."""
    return any(state.find(request_id) for state in tuple(core.replaced_unwritten.values()))


def has_ended(core: Core, request_id: str) -> bool:
    """Tell whether no work is to be done (any more) for a request, as far as is known."""
    # First of all: what is found to be written is in the index before it is no longer in doubt.
    if any(item.request_id == request_id and item.is_open for item in core.store.in_doubt()):
        return False
    request = core.index.get(request_id)
    return is_known_gone(core, request_id) if request is None else not request.is_open


def audit_refusal(core: Core, user: str, what: str, error: ApiError) -> None:
    """Write the audit line of something that was not allowed."""
    event = Event(core.clock.now(), "refused", user, f"{what}: {error.code}")
    core.audit.write(event, user=user)


def audit_call(core: Core, *events: Event, request_id: str = "", series: str = "") -> None:
    """Write audit lines that name, besides who an event is by, the user who was signed in."""
    core.audit.write(*events, request_id=request_id, series=series, user=signed_in.get())
