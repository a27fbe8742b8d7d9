# SPDX-License-Identifier: AGPL-3.0-or-later
"""The lease of a request: who gets it, how long it lasts, what it still allows once it has run out.

A worker holds one lease on the slide that it analyses and at most one more on the next slide, marked as
prefetch: an idle worker may take that one over until its holder has begun.
"""

from __future__ import annotations

import hmac

from orthanc_plugin.errors import ApiError

from . import values
from .transition import (
    again_or_failed,
    attempts_counted,
    attempts_uncounted,
    changed,
    ended_cancelled,
    ended_failed,
    with_last_grant,
    wrong_state,
)
from .values import AnalysisRequest, Artifact, Failure, Grant, replaced

_GRANTS_KEPT = 8
TOKENLESS_LEASE_S = 1800.0
"""Older workers send no heartbeats: a slide must be done within this time."""
DELIVERABLE = frozenset({None, values.EXPIRED, values.UNCONFIRMED, values.HANDED_BACK})
"""Outcomes of a grant that may bring a result all the same, while nobody claimed since."""
_NO_ATTEMPT = frozenset(
    {values.UNCONFIRMED, values.HANDED_BACK, values.TAKEN_OVER, values.SERIES_CHANGED, values.SOURCE_REPLACED}
)
"""Outcomes of a grant that is not counted."""


def duration_of(grant: Grant, lease_s: float) -> float:
    """Return the seconds that a lease lasts after a sign of life; `lease_s` is the site's setting."""
    return TOKENLESS_LEASE_S if grant.tokenless else lease_s


def is_due(request: AnalysisRequest, now: float) -> bool:
    """Tell whether a pending request may be granted by now."""
    if request.status != values.PENDING:
        return False
    if request.not_before is None or now < request.history[-1].at:  # the clock has been set back since
        return True
    return now >= request.not_before


def granted(request: AnalysisRequest, grant: Grant, record: Artifact, now: float) -> AnalysisRequest:
    """Give the lease to a worker; what the previous grant left behind is dropped.

    `record` is the number reserved for the full result, still without bytes.
    """
    detail = grant.model.name
    if may_be_taken_over(request, grant.worker_id):
        detail += f"; taken over from {request.grants[-1].worker_id}, which had not begun"
        request = _taken_over(request)
    elif request.status != values.PENDING:
        raise wrong_state(request, "claimed")
    if grant.fingerprint != request.fingerprint:
        detail += "; the slide has changed since it was submitted"
    return changed(
        request,
        now,
        "claimed",
        grant.worker_id,
        detail,
        status=values.PROCESSING,
        fence=grant.fence,
        fingerprint=grant.fingerprint,
        not_before=None,
        grants=_kept((*request.grants, grant), max(_GRANTS_KEPT, request.max_attempts)),
        artifacts=(),
        record=record,
        outputs=(),
    )


def _kept(grants: tuple[Grant, ...], most: int) -> tuple[Grant, ...]:
    """Return the latest grants; the attempts among them stay longest, for the reasons why they failed."""
    while len(grants) > most:
        oldest = next((grant for grant in grants if grant.outcome in _NO_ATTEMPT), grants[0])
        grants = tuple(grant for grant in grants if grant is not oldest)
    return grants


def is_prefetched(request: AnalysisRequest) -> bool:
    """Tell whether the lease is one on a slide that its worker has not begun."""
    return request.status == values.PROCESSING and request.grants[-1].prefetch


def may_be_taken_over(request: AnalysisRequest, worker_id: str) -> bool:
    """Tell whether an idle worker may have a request that another one has only fetched ahead."""
    if request.cancel_requested or not is_prefetched(request):
        return False
    return request.grants[-1].worker_id != worker_id


def _taken_over(request: AnalysisRequest) -> AnalysisRequest:
    """End a lease whose worker had not begun; that was no attempt of it."""
    return replaced(
        request,
        attempts=attempts_uncounted(request),
        grants=with_last_grant(request, outcome=values.TAKEN_OVER),
    )


def authorised(request: AnalysisRequest, fence: int, token_sha256: str) -> Grant:
    """Return the grant that a worker speaks under.

    Raises
    ------
    ApiError
        409 ``lease_lost`` where there is no such grant, or it has been superseded.
    """
    grant = find_grant(request, fence, token_sha256)
    if grant is None:
        raise lease_lost("This token and fence hold no lease on the request. Drop the work.")
    if grant.fence != request.fence:
        raise lease_lost("Another worker holds this request now. Drop the work.")
    return grant


def find_grant(request: AnalysisRequest, fence: int, token_sha256: str) -> Grant | None:
    """Return the grant, latest or not, with this fence and token."""
    for grant in request.grants:
        if grant.fence == fence and hmac.compare_digest(grant.token_sha256, token_sha256):
            return grant
    return None


def may_still_deliver(request: AnalysisRequest) -> bool:
    """Tell whether the latest grant may bring a result: also after expiry, while nobody claimed since."""
    if request.grant is None or request.status not in {values.PENDING, values.PROCESSING}:
        return False
    return request.grant.outcome in DELIVERABLE


def require_deliverable(request: AnalysisRequest) -> None:
    """Raise 409 ``lease_lost`` unless the latest grant may still bring a result."""
    if not may_still_deliver(request):
        raise lease_lost(f"The request is {request.status} and this lease has ended. Drop the work.")


def is_news(request: AnalysisRequest, *, prefetch: bool) -> bool:
    """Tell whether a heartbeat changes the request; all but a lease's first few do not."""
    if request.status != values.PROCESSING or not request.grants[-1].confirmed:
        return True
    return request.grants[-1].prefetch and not prefetch


def only_confirms(request: AnalysisRequest, *, prefetch: bool) -> bool:
    """Tell whether a heartbeat changes nothing but that the latest grant has been heard of."""
    return request.status == values.PROCESSING and (prefetch or not request.grants[-1].prefetch)


def heard(request: AnalysisRequest, now: float, *, prefetch: bool = False) -> AnalysisRequest:
    """Note a sign of life of the latest grant: the first one confirms it, one after expiry takes it up again.

    `prefetch` says that the worker has not begun; the first heartbeat without it makes the lease an ordinary
    one, for good. A lease that ran out is taken up by a worker that has begun, not by one that has not.
    Returns the same request where nothing changes.
    """
    require_deliverable(request)
    grant = request.grants[-1]
    if not is_news(request, prefetch=prefetch):
        return request
    if grant.outcome == values.HANDED_BACK:  # its worker said that it would not go on
        raise lease_lost("The lease was handed back. Claim again.")
    if request.status == values.PENDING and prefetch:  # its worker may have fetched another one ahead since
        raise lease_lost("The lease ran out before the slide was begun. Claim again.")
    return changed(
        request,
        now,
        _event_of_heartbeat(request),
        grant.worker_id,
        status=values.PROCESSING,
        not_before=None,
        attempts=attempts_counted(request),
        grants=with_last_grant(request, confirmed=True, outcome=None, prefetch=grant.prefetch and prefetch),
    )


def found_at_start(request: AnalysisRequest) -> AnalysisRequest:
    """Return a request as it counts after a restart, which has forgotten whether its lease was confirmed.

    It is taken for an attempt: a slide that brings Orthanc down whenever it is worked on fails in the end.
    """
    if request.status != values.PROCESSING or request.grants[-1].tokenless:
        return request
    return replaced(
        request, attempts=attempts_counted(request), grants=with_last_grant(request, confirmed=True)
    )


def _event_of_heartbeat(request: AnalysisRequest) -> str:
    if request.status != values.PROCESSING:
        return "resumed"
    return "begun" if request.grants[-1].confirmed else "confirmed"


def handed_back(request: AnalysisRequest, now: float) -> AnalysisRequest:
    """Return a lease that its worker no longer wants; it is not counted."""
    if request.status != values.PROCESSING:
        return request
    grant = request.grants[-1]
    if request.cancel_requested:
        return ended_cancelled(request, now, grant.worker_id, values.HANDED_BACK)
    return changed(
        request,
        now,
        values.HANDED_BACK,
        grant.worker_id,
        status=values.PENDING,
        attempts=attempts_uncounted(request),
        grants=with_last_grant(request, outcome=values.HANDED_BACK),
    )


def expired(request: AnalysisRequest, now: float, *, retry_s: float, jitter: float) -> AnalysisRequest:
    """End a lease whose time has run out; `jitter` lies in 0 to 1."""
    if request.status != values.PROCESSING:
        return request
    grant = request.grants[-1]
    outcome = values.EXPIRED if grant.confirmed else values.UNCONFIRMED
    if request.cancel_requested:
        return ended_cancelled(request, now, grant.worker_id, outcome)
    ended = replaced(request, grants=with_last_grant(request, outcome=outcome))
    if not grant.confirmed:
        return changed(ended, now, outcome, grant.worker_id, status=values.PENDING)
    lost = Failure("lease_expired", f"Worker {grant.worker_id} was not heard of any more.", retryable=True)
    return again_or_failed(ended, lost, now, grant.worker_id, retry_s=retry_s, jitter=jitter)


def lease_lost(sentence: str) -> ApiError:
    """Return the 409 that lets a worker drop its work."""
    return ApiError(409, "lease_lost", sentence)


def cancel_confirmed(request: AnalysisRequest, now: float) -> AnalysisRequest:
    """End a cancelled request that its worker has let go of."""
    if request.status == values.CANCELLED:
        return request
    require_deliverable(request)
    if not request.cancel_requested:
        raise wrong_state(request, "cancelled by its worker, because nobody asked for it")
    return ended_cancelled(request, now, request.grants[-1].worker_id, "")


def refused_at_claim(request: AnalysisRequest, failure: Failure, now: float) -> AnalysisRequest:
    """End a pending request whose series can no longer be analysed.

    One that has moved on is left alone; so is one that another worker has fetched ahead, which reports the
    reason itself.
    """
    if request.status != values.PENDING:
        return request
    return ended_failed(request, now, "", f"{failure.code}: {failure.message}", failure)
