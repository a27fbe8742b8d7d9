# SPDX-License-Identifier: AGPL-3.0-or-later
"""What Orthanc says about series: stored again, settled, deleted.

Storing the only instance of a series again with OverwriteInstances makes Orthanc delete the series, with our
metadata and attachments, and create it anew within a millisecond. What memory holds is then written again.
"""

from __future__ import annotations

from dataclasses import replace

from orthanc_plugin import values
from orthanc_plugin.codec import SeriesState
from orthanc_plugin.eligibility import fingerprint
from orthanc_plugin.lifecycle import source_replaced
from orthanc_plugin.values import Event

from .core import Core, list_series_open

_REMEMBERED = 100
_REPLACED_WITHIN_S = 10.0
"""A series stored again later than this after its deletion is a new one: what was deleted stays deleted."""


def series_deleted(core: Core, series_id: str) -> None:
    """Let the requests of a deleted series go, or write them again where the series exists once more.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails.
    """
    if core.gateway.series(series_id) is not None:
        _carry_over(core, series_id)
        return
    state = core.index.forget_series(series_id)
    if state is None or not state.requests:
        return
    core.replaced[series_id] = (state, core.clock.monotonic())
    while len(core.replaced) > _REMEMBERED:
        del core.replaced[next(iter(core.replaced))]
    for request in state.requests:
        event = Event(core.clock.now(), "source_deleted", "", request.status)
        core.audit.write(event, request_id=request.request_id, series=series_id)
    core.claims.assign()


def series_created(core: Core, series_id: str) -> None:
    """Give a series that was deleted a moment ago its requests back.

    Raises
    ------
    StorageError, ApiError
        Where Orthanc fails.
    """
    state, deleted_at = core.replaced.pop(series_id, (None, 0.0))
    is_old = core.clock.monotonic() - deleted_at > _REPLACED_WITHIN_S
    if state is not None and not is_old and core.gateway.series(series_id) is not None:
        core.store.remember(state)
        _carry_over(core, series_id)


def _carry_over(core: Core, series_id: str) -> None:
    """Write what memory holds of a series that lost its metadata, once."""
    state = core.index.state(series_id)
    if state is None or not state.requests:
        return
    if core.gateway.get_metadata(series_id, core.settings.metadata_number) is not None:
        return
    if any(request.is_open for request in state.requests):
        list_series_open(core, series_id)
    content = fingerprint(core.gateway.instances(series_id))
    now = core.clock.now()

    def change(before: SeriesState) -> SeriesState:
        requests = tuple(source_replaced(request, content, now) for request in before.requests)
        return replace(before, requests=requests, folded=0)

    after = core.store.carry_over(series_id, change)
    for request in after.requests:
        event = Event(now, values.SOURCE_REPLACED, "", request.status)
        core.audit.write(event, request_id=request.request_id, series=series_id)
    core.claims.assign()


def series_stable(core: Core, series_id: str) -> None:
    """Let the requests be claimed that waited for their series to be complete."""
    state = core.index.state(series_id)
    if state is not None:
        core.claims.release([request.request_id for request in state.requests if request.is_open])
