# SPDX-License-Identifier: AGPL-3.0-or-later
"""The one way to change a request: one write, and what follows it."""

from __future__ import annotations

from collections.abc import Callable

from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.transition import new_events
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.storage.archive import brought_back
from orthanc_plugin.storage.numbering import take_number
from orthanc_plugin.storage.store import Change, RequestChange, source_deleted, with_request

from .announce import drop_copies
from .core import Core, audit_call, find, unknown_request

StateChange = Callable[[SeriesState, AnalysisRequest], SeriesState]


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
    """Do what follows a write: tell those who wait and the webhook, count, write the audit, drop copies."""
    core.claims.assign()
    events = new_events(before, after)
    core.tallies.transition(before, after, events)
    if core.webhook is not None:
        core.webhook.tell(before, after)
    if events:
        audit_call(core, *events, request_id=after.request_id, series=after.series)
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
