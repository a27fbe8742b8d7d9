# SPDX-License-Identifier: AGPL-3.0-or-later
"""A worker says that it is alive and how far it is, hands its lease back, or confirms a cancel."""

from __future__ import annotations

from dataclasses import dataclass

from orthanc_plugin.fleet.counters import Counters
from orthanc_plugin.queue import values
from orthanc_plugin.queue.held_leases import Live
from orthanc_plugin.queue.leases import (
    authorised,
    cancel_confirmed,
    duration_of,
    handed_back,
    heard,
    is_news,
    only_confirms,
)
from orthanc_plugin.queue.values import AnalysisRequest

from .core import Core, find
from .transact import change_request, note_request


@dataclass(frozen=True)
class LeaseProof:
    """What a worker shows to speak for a request."""

    worker_id: str
    token_sha256: str
    fence: int


@dataclass(frozen=True)
class Heartbeat:
    """What a worker says while it holds a lease.

    Attributes
    ----------
    live
        How far the work is.
    prefetch
        The slide has not been begun.
    counters
        What the worker has counted since its own start; of the worker, not of the request.
    """

    live: Live
    prefetch: bool
    counters: Counters


@dataclass(frozen=True)
class Orders:
    """What a heartbeat is answered with."""

    request: AnalysisRequest
    cancel: bool
    drain: bool


def heartbeat(core: Core, request_id: str, proof: LeaseProof, beat: Heartbeat) -> Orders:
    """Give the lease more time. The first heartbeat confirms the attempt, which is not written by itself.

    What decides who else may have the request is: that a slide fetched ahead has been begun, or that a lease
    which had run out is taken up again.

    Raises
    ------
    ApiError
        409 ``lease_lost`` where the worker should drop the work.
    """
    request = find(core, request_id)
    grant = authorised(request, proof.fence, proof.token_sha256)
    if is_news(request, prefetch=beat.prefetch):
        request = _hear(core, request_id, proof, beat)
    expires_at = core.clock.monotonic() + duration_of(grant, core.settings.lease_s)
    core.index.renew(request_id, proof.fence, expires_at, beat.live)
    core.workers.heard(grant, beat.counters)
    return Orders(request, request.cancel_requested, core.workers.drains(grant.worker_id))


def _hear(core: Core, request_id: str, proof: LeaseProof, beat: Heartbeat) -> AnalysisRequest:
    def change(item: AnalysisRequest) -> AnalysisRequest:
        authorised(item, proof.fence, proof.token_sha256)
        return heard(item, core.clock.now(), prefetch=beat.prefetch)

    def confirmation(item: AnalysisRequest) -> AnalysisRequest:
        return change(item) if only_confirms(item, prefetch=beat.prefetch) else item

    request = note_request(core, request_id, confirmation)
    if is_news(request, prefetch=beat.prefetch):
        return change_request(core, request_id, change)
    return request


def hand_back(core: Core, request_id: str, proof: LeaseProof) -> Orders:
    """Return a lease uncounted, so that another worker can take the request at once.

    Raises
    ------
    ApiError
        409 ``lease_lost`` where the lease was lost already.
    """

    def change(request: AnalysisRequest) -> AnalysisRequest:
        authorised(request, proof.fence, proof.token_sha256)
        return handed_back(request, core.clock.now())

    return Orders(
        change_request(core, request_id, change), cancel=False, drain=core.workers.drains(proof.worker_id)
    )


def confirm_cancel(core: Core, request_id: str, proof: LeaseProof) -> Orders:
    """End a request that a person cancelled while it was worked on.

    Raises
    ------
    ApiError
        409 where the lease was lost, or nobody asked for a cancel.
    """

    def change(request: AnalysisRequest) -> AnalysisRequest:
        authorised(request, proof.fence, proof.token_sha256)
        return cancel_confirmed(request, core.clock.now())

    return Orders(
        change_request(core, request_id, change), cancel=False, drain=core.workers.drains(proof.worker_id)
    )


def holds_lease_on(core: Core, user: str, orthanc_id: str) -> bool:
    """Tell whether a user's worker may read a series, or an instance of it.

    It may from its claim until its result is taken or another worker claims.
    """
    series_id = orthanc_id
    if core.index.state(orthanc_id) is None:
        series_id = core.gateway.parent_series(orthanc_id) or orthanc_id
    state = core.index.state(series_id)
    if state is None:
        return False
    return any(
        request.grant is not None
        and request.grant.user == user
        and (
            request.status == values.PROCESSING
            or (request.status == values.PENDING and request.grant.outcome == values.EXPIRED)
        )
        for request in state.requests
    )
