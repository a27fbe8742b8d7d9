# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parts that every use of the queue works with, and the one way to change a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from orthanc_plugin.archive import brought_back
from orthanc_plugin.audit import Audit
from orthanc_plugin.clock import Clock
from orthanc_plugin.codec import SeriesState
from orthanc_plugin.copies import Copies
from orthanc_plugin.drained import Drained
from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.gateway import Gateway, SeriesInfo
from orthanc_plugin.index import Index
from orthanc_plugin.lifecycle import as_submitted
from orthanc_plugin.numbering import take_number
from orthanc_plugin.open_series import OpenSeries
from orthanc_plugin.settings import Settings
from orthanc_plugin.store import Change, RequestChange, Store, source_deleted, with_request
from orthanc_plugin.tallies import Tallies
from orthanc_plugin.transition import new_events
from orthanc_plugin.unpublished import Unpublished
from orthanc_plugin.values import AnalysisRequest, Event
from orthanc_plugin.waiting import ClaimPool, PagePool
from orthanc_plugin.webhook import Webhook
from orthanc_plugin.webhook_client import post
from orthanc_plugin.workers import Workers

StateChange = Callable[[SeriesState, AnalysisRequest], SeriesState]

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
    """One queue on one Orthanc.

    `replacing` is held while it is seen to what became of a series that was deleted or stored again, one at a
    time: it is taken before the lock of any series, and never while that or the index' is held.
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


def build_core(
    settings: Settings, gateway: Gateway, clock: Clock, audit: Audit, warn: Callable[[str], None]
) -> Core:
    """Put a queue together; nothing is read yet (see `startup`)."""
    index = Index()

    def on_found(before: AnalysisRequest | None, after: AnalysisRequest) -> None:
        follow_change(core, before, after)

    core = Core(
        settings=settings,
        gateway=gateway,
        clock=clock,
        index=index,
        store=Store(gateway, settings, index, clock, warn, on_found),
        listed=OpenSeries(gateway, settings.global_property, clock, warn),
        copies=Copies(gateway, settings.copies_property, warn),
        overwrites=gateway.configuration().get("OverwriteInstances") not in {None, False},
        unpublished=Unpublished(gateway, settings.unpublished_property, warn),
        claims=ClaimPool(index, clock, settings.claim_waiters),
        pages=PagePool(index, settings.page_waiters),
        workers=Workers(clock, Drained(gateway, settings.drain_property, warn)),
        audit=audit,
        warn=warn,
        webhook=None if settings.webhook is None else Webhook(settings.webhook, post, clock, warn),
    )
    return core


def starting() -> ApiError:
    """Return the answer while the requests are still being read."""
    return ApiError(
        503, "starting", "The plugin is still reading its requests. Try again.", headers={"Retry-After": "1"}
    )


def unavailable(error: StorageError) -> ApiError:
    """Return the answer where Orthanc itself fails."""
    return ApiError(503, "storage_unavailable", f"{error} Try again.", headers={"Retry-After": "5"})


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
    """Tell of a request that is not known whether there is none (any more), and not one yet to be read."""
    everything_is_read = core.ready.all_known.is_set() and not core.ready.unread
    return core.index.is_gone(request_id) or (everything_is_read and not _is_unwritten(core, request_id))


def _is_unwritten(core: Core, request_id: str) -> bool:
    """Tell whether a request went with a slide that was stored again, and is yet to be written to it."""
    return any(state.find(request_id) for state in tuple(core.replaced_unwritten.values()))


def has_ended(core: Core, request_id: str) -> bool:
    """Tell whether no work is to be done (any more) for a request, as far as is known."""
    request = core.index.get(request_id)
    return is_known_gone(core, request_id) if request is None else not request.is_open


def change_request(core: Core, request_id: str, change: RequestChange) -> AnalysisRequest:
    """Apply a transition to a request with one write, tell those who wait, and write the audit line."""
    return _change(core, request_id, _of_request(change))


def change_request_numbered(
    core: Core, request_id: str, change: Callable[[AnalysisRequest, int], AnalysisRequest]
) -> AnalysisRequest:
    """Apply a transition that also reserves a number; see `change_request`."""

    def numbered(state: SeriesState, before: AnalysisRequest) -> SeriesState:
        number, after = take_number(state)
        return with_request(after, change(before, number))

    return _change(core, request_id, numbered)


def note_request(core: Core, request_id: str, change: RequestChange) -> AnalysisRequest:
    """Apply a change that a restart may forget, and tell those who wait; the next transition writes it."""
    before, after = _apply(core, core.store.note, request_id, _of_request(change))
    core.tallies.transition(before, after, new_events(before, after))
    return after


def _change(core: Core, request_id: str, change: StateChange) -> AnalysisRequest:
    before, after = _apply(core, core.store.transact, request_id, change)
    follow_change(core, before, after)
    return after


def follow_change(core: Core, before: AnalysisRequest | None, after: AnalysisRequest) -> None:
    """Do what follows a write: tell those who wait, write the audit line, drop the copy of what has ended."""
    core.claims.assign()
    audit_change(core, before, after)
    if not after.is_open:
        drop_copies(core, after.series)


def _of_request(change: RequestChange) -> StateChange:
    return lambda state, before: with_request(state, change(before))


def _apply(
    core: Core, through: Callable[[str, Change], SeriesState], request_id: str, change: StateChange
) -> tuple[AnalysisRequest, AnalysisRequest]:
    """Return what a request was and what it is after a change of its state."""
    series_id = find(core, request_id).series
    seen: list[AnalysisRequest] = []

    def on_state(state: SeriesState) -> SeriesState:
        held, before = _brought_back(core, state, request_id)
        seen.append(before)
        after = change(held, before)
        return state if after is held else after

    state = through(series_id, on_state)
    return seen[-1], state.find(request_id) or find(core, request_id)


def _brought_back(core: Core, state: SeriesState, request_id: str) -> tuple[SeriesState, AnalysisRequest]:
    """Return a request of a state, and that state with the request back in it where it is archived."""
    found = state.find(request_id)
    if found is not None:
        return state, found
    archived = core.index.get(request_id)
    if archived is None:
        raise source_deleted() if core.index.is_gone(request_id) else unknown_request()
    return brought_back(state, archived), archived


def audit_change(core: Core, before: AnalysisRequest | None, after: AnalysisRequest) -> None:
    """Count what became of a request with one write, write its audit lines and tell the webhook."""
    events = new_events(before, after)
    core.tallies.transition(before, after, events)
    if core.webhook is not None:
        core.webhook.tell(before, after)
    if events:
        audit_call(core, *events, request_id=after.request_id, series=after.series)


def audit_refusal(core: Core, user: str, what: str, error: ApiError) -> None:
    """Write the audit line of something that was not allowed."""
    event = Event(core.clock.now(), "refused", user, f"{what}: {error.code}")
    core.audit.write(event, user=user)


def audit_call(core: Core, *events: Event, request_id: str = "", series: str = "") -> None:
    """Write audit lines that name, besides who an event is by, the user who was signed in."""
    core.audit.write(*events, request_id=request_id, series=series, user=signed_in.get())


@contextmanager
def announced(
    core: Core, requests: Iterable[AnalysisRequest], copied: Iterable[AnalysisRequest]
) -> Iterator[None]:
    """Let a restart know of requests that are written within: of their series, and of copies of some of them.

    Raises
    ------
    ApiError
        503 where Orthanc cannot write.
    """
    copies = [as_submitted(request) for request in copied] if core.overwrites else []
    try:
        try:
            core.listed.add([request.series for request in requests])
            if copies:
                core.copies.keep(copies)
        except StorageError as error:
            raise unavailable(error) from error
        yield
    finally:
        if copies:
            core.copies.release([copy.request_id for copy in copies])
            drop_copies(core, *(copy.series for copy in copies))


def at_risk(core: Core, requests: Iterable[AnalysisRequest]) -> list[AnalysisRequest]:
    """Return the requests whose slide takes them along where it is stored again: those on one of one file.

    Raises
    ------
    StorageError
        Where Orthanc cannot read.
    """
    if not core.overwrites:
        return []
    return [request for request in requests if has_one_file(core.gateway.series(request.series))]


def has_one_file(series: SeriesInfo | None) -> bool:
    """Tell whether an Orthanc that overwrites replaces the whole series when a file of it is stored again."""
    return series is not None and len(series.instance_ids) == 1


def drop_copies(core: Core, *series_ids: str) -> None:
    """Drop the copies of what has ended, or was not written; where Orthanc fails, the next tick does."""
    try:
        prune_copies(core, series_ids)
    except StorageError as error:
        core.warn(f"The copies of requests that have ended are dropped later: {error}")


def prune_copies(core: Core, series_ids: Iterable[str] | None = None) -> None:
    """Drop the copies of what has ended, or was not written, on some series or on all.

    Raises
    ------
    StorageError
        Where Orthanc cannot read or write.
    """
    if core.overwrites:
        core.copies.prune(lambda request_id: has_ended(core, request_id), series_ids)
