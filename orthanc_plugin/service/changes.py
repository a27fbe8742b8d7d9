# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc says about series: stored again, settled, deleted.

Storing the only instance of a series again with OverwriteInstances makes Orthanc delete the series, with our
metadata and attachments, and create it anew within a millisecond. What memory holds is then written again.
"""

from __future__ import annotations

from collections.abc import Iterable

from orthanc_plugin.gateway import SeriesInfo, stamp
from orthanc_plugin.queue import values
from orthanc_plugin.queue.lifecycle import slide_settled, source_replaced
from orthanc_plugin.queue.series_state import SeriesState
from orthanc_plugin.queue.values import AnalysisRequest, Event, replaced
from orthanc_plugin.slides.eligibility import fingerprint

from .announce import announced, at_risk
from .core import Core
from .transact import change_request

_REMEMBERED = 100
_REPLACED_WITHIN_S = 10.0
"""A series stored again later than this after its deletion is a new one: what was deleted stays deleted."""


def series_deleted(core: Core, series_id: str) -> None:
    """Let the requests of a deleted series go, or write them again where the series exists once more.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails; tried again later.
    """
    with core.replacing:
        known = core.index.state(series_id)
        lost = core.replaced_unwritten.get(series_id) or (None if known is None else core.index.whole(known))
        if lost is not None and lost.requests:
            core.replaced_unwritten[series_id] = lost  # until it is done with: Orthanc may fail meanwhile
        if core.gateway.series(series_id) is None:
            _let_go(core, series_id)
        else:
            _carry_over(core, lost)


def _let_go(core: Core, series_id: str) -> None:
    """Forget the requests of a series that is gone, except for a moment in which it may come back."""
    state = core.store.forget(series_id) or SeriesState(series_id, core.settings.first_attachment)
    state = _with_earlier(state, core.replaced_unwritten.pop(series_id, None))
    if not state.requests:
        return
    before = _deleted_before(core, series_id)
    core.replaced[series_id] = (_with_earlier(state, before), core.clock.monotonic())
    while len(core.replaced) > _REMEMBERED:
        del core.replaced[next(iter(core.replaced))]
    for request in state.requests:
        event = Event(core.clock.now(), "source_deleted", "", request.status)
        core.audit.write(event, request_id=request.request_id, series=series_id)
    core.claims.assign()


def _deleted_before(core: Core, series_id: str) -> SeriesState | None:
    """Return what went with a series a moment ago, where the plugin has not heard that it came back."""
    state, deleted_at = core.replaced.pop(series_id, (None, 0.0))
    return state if core.clock.monotonic() - deleted_at <= _REPLACED_WITHIN_S else None


def gone_a_moment_ago(core: Core, request_id: str) -> AnalysisRequest | None:
    """Return a request that has gone with its slide and comes back with it, should that be stored again."""
    with core.replacing:
        since = core.clock.monotonic() - _REPLACED_WITHIN_S
        lately = [state for state, deleted_at in core.replaced.values() if deleted_at >= since]
        found = (state.find(request_id) for state in (*core.replaced_unwritten.values(), *lately))
        return next((request for request in found if request is not None), None)


def _with_earlier(state: SeriesState, earlier: SeriesState | None) -> SeriesState:
    """Return a state with the requests that only an earlier one of its series has."""
    if earlier is None:
        return state
    former = tuple(request for request in earlier.requests if state.find(request.request_id) is None)
    number = max(earlier.next_number, state.next_number)
    return replaced(state, next_number=number, requests=(*former, *state.requests))


def series_created(core: Core, series_id: str) -> None:
    """Give a series that was deleted a moment ago its requests back.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails.
    """
    with core.replacing:
        state = _deleted_before(core, series_id)
        if state is not None:
            core.replaced_unwritten[series_id] = state
        carry_over_unwritten(core, series_id)


def look_after(core: Core, series_id: str) -> None:
    """Do first what has not been done for a series that was stored again: before it gets a new request.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails.
    """
    if series_id in core.ready.unread:
        find_lost(core, [series_id])
    carry_over_unwritten(core, series_id)


def carry_over_unwritten(core: Core, series_id: str) -> None:
    """Do for a series that was deleted, or stored again, what has not been done or did not work.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails; to be tried again.
    """
    with core.replacing:
        if series_id in core.replaced_unwritten:
            series_deleted(core, series_id)


def find_lost(core: Core, series_ids: Iterable[str]) -> None:
    """Find the requests that went with a slide which was stored again unseen, to be carried over.

    Raises
    ------
    StorageError
        Where Orthanc cannot read.
    """
    if not core.overwrites:
        return
    with core.replacing:
        copies = core.copies.of_series()
        for series_id in copies.keys() & set(series_ids):
            if core.index.state(series_id) is None and _has_lost_its_value(core, series_id):
                lost = SeriesState(series_id, core.settings.first_attachment, requests=copies[series_id])
                core.replaced_unwritten.setdefault(series_id, lost)  # memory knows more than the copies


def _has_lost_its_value(core: Core, series_id: str) -> bool:
    """Tell whether a series went with its requests; what a value that is there lacks was never accepted."""
    if core.gateway.series(series_id) is None:
        return False
    return core.gateway.get_metadata(series_id, core.settings.metadata_number) is None


def _carry_over(core: Core, lost: SeriesState | None) -> None:
    """Write what was known of a series that lost its metadata and attachments, once."""
    if lost is None or not lost.requests:
        return
    series_id = lost.series_id
    still_open = [request for request in lost.requests if request.is_open]
    content = fingerprint(core.gateway.instances(series_id))
    now = core.clock.now()
    with announced(core, still_open, at_risk(core, still_open)):
        lacking = core.store.carry_over(
            series_id, lost, lambda request: source_replaced(request, content, now)
        )
    for request in lacking:
        event = Event(now, values.SOURCE_REPLACED, "", request.status)
        core.audit.write(event, request_id=request.request_id, series=series_id)
    core.claims.assign()
    core.replaced_unwritten.pop(series_id, None)


def note_arrival(core: Core, series: SeriesInfo) -> None:
    """Note whether files of a series may still come, for whoever waits for its analysis."""
    core.index.set_arriving(series.series_id, arriving=not series.is_stable)
    if series.is_stable:
        return
    # Orthanc may have said that it is complete between its answer and our note.
    now = core.gateway.series(series.series_id)
    if now is None or now.is_stable:
        core.index.set_arriving(series.series_id, arriving=False)


def series_stable(core: Core, series_id: str) -> None:
    """Let the requests be claimed that waited for a complete series, and flag the results it is too new for.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails.
    """
    core.index.set_arriving(series_id, arriving=False)
    state = core.index.state(series_id)
    if state is None:
        return
    core.claims.release([request.request_id for request in state.requests if request.is_open])
    _flag_results(core, series_id, _results_of(state))


def series_changed_unseen(core: Core, series_id: str) -> None:
    """Flag the results of a series that Orthanc was ended on before it said that what came is complete.

    Files that came are told by Orthanc's date of them. To look at every slide's files instead, which would
    tell of deleted ones as well, takes 16 s of a processor for 10,000 slides, at every start.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails.
    """
    state = core.index.state(series_id)
    results = [] if state is None else _results_of(state)
    if not results:
        return
    series = core.gateway.series(series_id)
    since = stamp(min(result.created for result in results))
    if series is not None and series.is_stable and series.last_update >= since:
        _flag_results(core, series_id, results)


def _results_of(state: SeriesState) -> list[AnalysisRequest]:
    return [request for request in state.requests if request.status == values.COMPLETED]


def _flag_results(core: Core, series_id: str, results: list[AnalysisRequest]) -> None:
    instances = core.gateway.instances(series_id) if results else ()
    if not instances:
        return
    content, now = fingerprint(instances), core.clock.now()
    for result in results:
        if slide_settled(result, content, now) is not result:
            change_request(core, result.request_id, lambda current: slide_settled(current, content, now))
