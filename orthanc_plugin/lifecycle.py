# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a request gets from one state to the next: pure functions, the clock passed in.

pending -> processing -> publishing -> completed -> withdrawn
   ^           |  |
   +-----------+  +-> failed, cancelled

Every function returns a new request or raises the `ApiError` that the client gets; none of them reads a
clock, a random number or Orthanc.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from typing import Any

from . import values
from .errors import ApiError
from .values import AnalysisRequest, Artifact, Event, Failure, Grant, Model, Output, Review

_GRANTS_KEPT = 8
_FIRST_EVENTS_KEPT = 4
_LAST_EVENTS_KEPT = 28
_MAX_BACK_OFF_S = 3600.0
_DELIVERABLE = frozenset({None, values.EXPIRED, values.UNCONFIRMED, values.HANDED_BACK})


def _changed(
    request: AnalysisRequest, now: float, event: str, by: str, detail: str = "", **members: Any
) -> AnalysisRequest:
    history = (*request.history, Event(now, event, by, detail))
    if len(history) > _FIRST_EVENTS_KEPT + _LAST_EVENTS_KEPT:
        history = (*history[:_FIRST_EVENTS_KEPT], *history[-_LAST_EVENTS_KEPT:])
    return replace(request, updated=max(now, request.updated), history=history, **members)


def _with_last_grant(request: AnalysisRequest, **members: Any) -> tuple[Grant, ...]:
    return (*request.grants[:-1], replace(request.grants[-1], **members))


def _wrong_state(request: AnalysisRequest, wish: str) -> ApiError:
    return ApiError(409, "wrong_state", f"A request that is {request.status} cannot be {wish}.")


def _lease_lost(sentence: str) -> ApiError:
    return ApiError(409, "lease_lost", sentence)


def submitted(request: AnalysisRequest) -> AnalysisRequest:
    """Return a new request with the first line of its history."""
    return _changed(request, request.created, "submitted", request.created_by)


def same_wish(one: AnalysisRequest, other: AnalysisRequest) -> bool:
    """Tell whether two requests ask for the same analysis of the same content, as a repeated submit does."""
    return _key(one) == _key(other)


def _key(request: AnalysisRequest) -> tuple[Any, ...]:
    return (request.series, request.fingerprint, request.model, request.model_version, request.parameters)


def counts_as_repeat(request: AnalysisRequest) -> bool:
    """Tell whether a request still stands for its wish; failed, cancelled and withdrawn ones do not."""
    return request.is_open or request.status == values.COMPLETED


def accepts(request: AnalysisRequest, model: Model) -> bool:
    """Tell whether `model` is what the request asks for (a request that names none takes any)."""
    return request.model in {None, model.name} and request.model_version in {None, model.version}


def is_due(request: AnalysisRequest, now: float) -> bool:
    """Tell whether a pending request may be granted by now."""
    if request.status != values.PENDING:
        return False
    if request.not_before is None:
        return True
    # Nothing waits longer than the longest back-off: the clock has been set back since.
    return not now < request.not_before <= now + _MAX_BACK_OFF_S * 1.5


def granted(request: AnalysisRequest, grant: Grant, record: Artifact, now: float) -> AnalysisRequest:
    """Give the lease to a worker; what the previous grant left behind is dropped.

    `record` is the attachment reserved for the full result, still without bytes.
    """
    if request.status != values.PENDING:
        raise _wrong_state(request, "claimed")
    detail = grant.model.name
    if grant.fingerprint != request.fingerprint:
        detail += "; the slide has changed since it was submitted"
    return _changed(
        request,
        now,
        "claimed",
        grant.worker_id,
        detail,
        status=values.PROCESSING,
        fence=grant.fence,
        fingerprint=grant.fingerprint,
        not_before=None,
        grants=(*request.grants, grant)[-_GRANTS_KEPT:],
        artifacts=(),
        record=record,
        outputs=(),
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
        raise _lease_lost("This token and fence hold no lease on the request. Drop the work.")
    if grant.fence != request.fence:
        raise _lease_lost("Another worker holds this request now. Drop the work.")
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
    return request.grant.outcome in _DELIVERABLE


def require_deliverable(request: AnalysisRequest) -> None:
    """Raise 409 ``lease_lost`` unless the latest grant may still bring a result."""
    if not may_still_deliver(request):
        raise _lease_lost(f"The request is {request.status} and this lease has ended. Drop the work.")


def heard(request: AnalysisRequest, now: float) -> AnalysisRequest:
    """Note a sign of life of the latest grant: the first one confirms it, one after expiry takes it up again.

    Returns the same request where nothing changes, which is what every other heartbeat does.
    """
    require_deliverable(request)
    grant = request.grants[-1]
    if request.status == values.PROCESSING and grant.confirmed:
        return request
    if grant.outcome == values.HANDED_BACK:  # its worker said that it would not go on
        raise _lease_lost("The lease was handed back. Claim again.")
    return _changed(
        request,
        now,
        "confirmed" if request.status == values.PROCESSING else "resumed",
        grant.worker_id,
        status=values.PROCESSING,
        not_before=None,
        attempts=_counted(request),
        grants=_with_last_grant(request, confirmed=True, outcome=None),
    )


def _counted(request: AnalysisRequest) -> int:
    return request.attempts if request.grants[-1].confirmed else request.attempts + 1


def _uncounted(request: AnalysisRequest) -> int:
    return max(0, request.attempts - 1) if request.grants[-1].confirmed else request.attempts


def handed_back(request: AnalysisRequest, now: float) -> AnalysisRequest:
    """Return a lease that its worker no longer wants; it is not counted."""
    if request.status != values.PROCESSING:
        return request
    grant = request.grants[-1]
    if request.cancel_requested:
        return _cancelled(request, now, grant.worker_id, values.HANDED_BACK)
    return _changed(
        request,
        now,
        values.HANDED_BACK,
        grant.worker_id,
        status=values.PENDING,
        attempts=_uncounted(request),
        grants=_with_last_grant(request, outcome=values.HANDED_BACK),
    )


def expired(request: AnalysisRequest, now: float, *, retry_s: float, jitter: float) -> AnalysisRequest:
    """End a lease whose time has run out; `jitter` lies in 0 to 1."""
    if request.status != values.PROCESSING:
        return request
    grant = request.grants[-1]
    outcome = values.EXPIRED if grant.confirmed else values.UNCONFIRMED
    if request.cancel_requested:
        return _cancelled(request, now, grant.worker_id, outcome)
    ended = replace(request, grants=_with_last_grant(request, outcome=outcome))
    if not grant.confirmed:
        return _changed(ended, now, outcome, grant.worker_id, status=values.PENDING)
    lost = Failure("lease_expired", f"Worker {grant.worker_id} was not heard of any more.", retryable=True)
    return _again_or_failed(ended, lost, now, grant.worker_id, retry_s=retry_s, jitter=jitter)


def back_off(attempts: int, *, retry_s: float, jitter: float) -> float:
    """Return the seconds to wait after the given number of attempts: `retry_s` x 2^n, up to half more."""
    return float(min(_MAX_BACK_OFF_S, retry_s * 2 ** max(0, attempts - 1)) * (1 + jitter / 2))


def _again_or_failed(
    request: AnalysisRequest, failure: Failure, now: float, by: str, *, retry_s: float, jitter: float
) -> AnalysisRequest:
    detail = f"{failure.code}: {failure.message}"
    if failure.retryable and request.attempts < request.max_attempts:
        wait = back_off(request.attempts, retry_s=retry_s, jitter=jitter)
        return _changed(
            request,
            now,
            "requeued",
            by,
            detail,
            status=values.PENDING,
            error=failure,
            not_before=now + wait,
        )
    return _changed(request, now, "failed", by, detail, status=values.FAILED, error=failure, not_before=None)


def failed(
    request: AnalysisRequest,
    failure: Failure,
    now: float,
    *,
    body_sha256: str,
    retry_s: float,
    jitter: float,
) -> AnalysisRequest:
    """Take a worker's error; requeued where another attempt may help, else failed."""
    require_deliverable(request)
    grant = request.grants[-1]
    counted = replace(
        request,
        attempts=_counted(request),
        grants=_with_last_grant(
            request, confirmed=True, outcome=failure.code, error=failure, body_sha256=body_sha256
        ),
    )
    if request.cancel_requested:
        return _cancelled(counted, now, grant.worker_id, failure.code)
    return _again_or_failed(counted, failure, now, grant.worker_id, retry_s=retry_s, jitter=jitter)


def refused_at_claim(request: AnalysisRequest, failure: Failure, now: float) -> AnalysisRequest:
    """End a pending request whose series can no longer be analysed."""
    return _changed(
        request,
        now,
        "failed",
        "",
        f"{failure.code}: {failure.message}",
        status=values.FAILED,
        error=failure,
        not_before=None,
    )


def with_artifact(request: AnalysisRequest, artifact: Artifact, output: Output | None) -> AnalysisRequest:
    """Reserve an attachment under the latest grant; an artifact of the same name is replaced."""
    require_deliverable(request)
    old = next((item for item in request.artifacts if item.name == artifact.name), None)
    kept = tuple(item for item in request.artifacts if item is not old)
    outputs = request.outputs
    if output is not None:
        outputs = (*(item for item in outputs if item.sop_instance_uid != output.sop_instance_uid), output)
    return replace(request, artifacts=(*kept, artifact), outputs=outputs)


def series_changed(
    request: AnalysisRequest, fingerprint: str, now: float, *, body_sha256: str
) -> AnalysisRequest:
    """Give a request again, once and uncounted, whose slide differs from the one that was analysed."""
    require_deliverable(request)
    grant = request.grants[-1]
    changed = replace(
        request,
        fingerprint=fingerprint,
        series_changes=request.series_changes + 1,
        attempts=_uncounted(request),
        grants=_with_last_grant(request, outcome=values.SERIES_CHANGED, body_sha256=body_sha256),
    )
    if request.cancel_requested:
        return _cancelled(changed, now, grant.worker_id, values.SERIES_CHANGED)
    if request.series_changes >= 1:
        failure = Failure(
            values.SERIES_CHANGED, "The slide kept changing while it was analysed.", retryable=False
        )
        return _changed(
            changed, now, "failed", grant.worker_id, failure.message, status=values.FAILED, error=failure
        )
    return _changed(
        changed,
        now,
        values.SERIES_CHANGED,
        grant.worker_id,
        status=values.PENDING,
        not_before=None,
        error=None,
    )


@dataclass(frozen=True)
class Delivery:
    """What a completion brings: the files and DICOM series to keep, and the result's summary."""

    body_sha256: str
    artifacts: tuple[Artifact, ...]
    record: Artifact
    outputs: tuple[Output, ...]
    summary: str
    flags: tuple[str, ...]


def publishing(request: AnalysisRequest, delivery: Delivery, now: float) -> AnalysisRequest:
    """Accept a result. From here on the request can only become completed (or its series be deleted)."""
    require_deliverable(request)
    detail = "a cancel came too late" if request.cancel_requested else ""
    return _changed(
        request,
        now,
        values.DELIVERED,
        request.grants[-1].worker_id,
        detail,
        status=values.PUBLISHING,
        attempts=_counted(request),
        not_before=None,
        cancel_requested=False,
        error=None,
        artifacts=delivery.artifacts,
        record=delivery.record,
        outputs=delivery.outputs,
        summary=delivery.summary,
        flags=tuple(dict.fromkeys((*request.flags, *delivery.flags))),
        grants=_with_last_grant(
            request, confirmed=True, outcome=values.DELIVERED, body_sha256=delivery.body_sha256
        ),
    )


def completed(request: AnalysisRequest, outputs: tuple[Output, ...], now: float) -> AnalysisRequest:
    """Finish a request whose DICOM results are stored."""
    if request.status != values.PUBLISHING:
        return request
    return _changed(request, now, "completed", "", status=values.COMPLETED, outputs=outputs)


def _cancelled(request: AnalysisRequest, now: float, by: str, detail: str) -> AnalysisRequest:
    grants = request.grants
    if request.status == values.PROCESSING and request.grants[-1].outcome is None:
        grants = _with_last_grant(request, outcome=values.ENDED_BY_PERSON)
    return _changed(
        request, now, "cancelled", by, detail, status=values.CANCELLED, not_before=None, grants=grants
    )


def cancelled(request: AnalysisRequest, by: str, now: float) -> AnalysisRequest:
    """Cancel at once what is pending; ask the worker where one is at it. Again is no error."""
    if request.status == values.CANCELLED or (
        request.status == values.PROCESSING and request.cancel_requested
    ):
        return request
    if request.status == values.PENDING:
        return _cancelled(request, now, by, "")
    if request.status == values.PROCESSING:
        return _changed(request, now, "cancel_requested", by, cancel_requested=True)
    raise _wrong_state(request, "cancelled")


def cancel_confirmed(request: AnalysisRequest, now: float) -> AnalysisRequest:
    """End a cancelled request that its worker has let go of."""
    if request.status == values.CANCELLED:
        return request
    require_deliverable(request)
    if not request.cancel_requested:
        raise _wrong_state(request, "cancelled by its worker, because nobody asked for it")
    return _cancelled(request, now, request.grants[-1].worker_id, "")


def retried(request: AnalysisRequest, by: str, now: float) -> AnalysisRequest:
    """Give a failed or cancelled request a fresh set of attempts; one that waits is made due now."""
    if request.status == values.PENDING:
        return (
            request if request.not_before is None else _changed(request, now, "retried", by, not_before=None)
        )
    if request.status not in {values.FAILED, values.CANCELLED}:
        raise _wrong_state(request, "retried")
    return _changed(
        request,
        now,
        "retried",
        by,
        status=values.PENDING,
        attempts=0,
        series_changes=0,
        not_before=None,
        cancel_requested=False,
        grants=_ended_by_person(request),
    )


def _ended_by_person(request: AnalysisRequest) -> tuple[Grant, ...]:
    """Let the latest lease bring nothing more; what became of one that has ended before stays known."""
    if request.grant is None or request.grant.outcome not in _DELIVERABLE:
        return request.grants
    return _with_last_grant(request, outcome=values.ENDED_BY_PERSON)


def withdrawn(request: AnalysisRequest, by: str, reason: str, now: float) -> AnalysisRequest:
    """Take a result back; the record stays, its artifacts and DICOM series go."""
    if request.status != values.COMPLETED:
        raise _wrong_state(request, "withdrawn")
    return _changed(request, now, "withdrawn", by, reason, status=values.WITHDRAWN, artifacts=())


def outputs_deleted(request: AnalysisRequest) -> AnalysisRequest:
    """Forget the DICOM series of a withdrawn result once they are deleted."""
    return replace(request, outputs=())


def reviewed(request: AnalysisRequest, review: Review) -> AnalysisRequest:
    """Note a person's verdict; a later one replaces it, the history keeps both."""
    if request.status != values.COMPLETED:
        raise _wrong_state(request, "reviewed")
    detail = review.verdict if not review.comment else f"{review.verdict}: {review.comment}"
    return _changed(request, review.at, "reviewed", review.by, detail, review=review)


def source_replaced(request: AnalysisRequest, fingerprint: str, now: float) -> AnalysisRequest:
    """Carry a request over to a series that was deleted and stored again under the same identity."""
    # What a lease has reserved for its result stays reserved: a slide stored again unchanged costs no work.
    lost: dict[str, Any] = {"artifacts": ()}
    flags = tuple(dict.fromkeys((*request.flags, values.SOURCE_REPLACED)))
    if not request.is_open:
        return _changed(request, now, values.SOURCE_REPLACED, "", flags=flags, record=None, **lost)
    if request.status == values.PUBLISHING:
        lost.update(status=values.PENDING, record=None, outputs=(), summary=None)
        lost.update(attempts=_uncounted(request))
        lost.update(grants=_with_last_grant(request, outcome=values.SOURCE_REPLACED))
    return _changed(request, now, values.SOURCE_REPLACED, "", fingerprint=fingerprint, flags=flags, **lost)
