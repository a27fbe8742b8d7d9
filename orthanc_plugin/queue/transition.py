# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the transitions of a request share: the line in its history, the count of attempts, how it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orthanc_plugin.errors import ApiError

from . import values
from .values import AnalysisRequest, Event, Failure, Grant, replaced

_FIRST_EVENTS_KEPT = 4
_LAST_EVENTS_KEPT = 28
_MAX_BACK_OFF_S = 3600.0
_NO_RESULT: Mapping[str, Any] = {"artifacts": (), "record": None, "outputs": ()}
"""Once no result can come any more, what attempts have sent of one is not named, and deleted in time."""


def changed(
    request: AnalysisRequest, now: float, event: str, by: str, detail: str = "", **members: Any
) -> AnalysisRequest:
    """Return a request with new members and one more line of its history."""
    history = (*request.history, Event(now, event, by, detail))
    if len(history) > _FIRST_EVENTS_KEPT + _LAST_EVENTS_KEPT:
        history = (*history[:_FIRST_EVENTS_KEPT], *history[-_LAST_EVENTS_KEPT:])
    return replaced(request, updated=max(now, request.updated), history=history, **members)


def new_events(before: AnalysisRequest | None, after: AnalysisRequest) -> tuple[Event, ...]:
    """Return the lines that a write has added to a request's history."""
    if before is None:
        return after.history
    known = before.history[-1]
    first = len(after.history)
    while first and after.history[first - 1] is not known:
        first -= 1
    return after.history[first:]


def with_last_grant(request: AnalysisRequest, **members: Any) -> tuple[Grant, ...]:
    """Return the grants of a request, the latest one with new members."""
    return (*request.grants[:-1], replaced(request.grants[-1], **members))


def attempts_counted(request: AnalysisRequest) -> int:
    """Return the number of attempts with the latest grant counted, once."""
    return request.attempts if request.grants[-1].confirmed else request.attempts + 1


def attempts_uncounted(request: AnalysisRequest) -> int:
    """Return the number of attempts with the latest grant not counted."""
    return max(0, request.attempts - 1) if request.grants[-1].confirmed else request.attempts


def wrong_state(request: AnalysisRequest, wish: str, remedy: str = "") -> ApiError:
    """Return the 409 for a wish that does not fit the request's state, and what to do instead."""
    sentence = f"A request that is {request.status} cannot be {wish}. {remedy}"
    return ApiError(409, "wrong_state", sentence.rstrip())


def ended_cancelled(request: AnalysisRequest, now: float, by: str, detail: str) -> AnalysisRequest:
    """End a request as cancelled, whatever ended the work on it."""
    grants = request.grants
    if request.status == values.PROCESSING and request.grants[-1].outcome is None:
        grants = with_last_grant(request, outcome=values.ENDED_BY_PERSON)
    return changed(
        request,
        now,
        "cancelled",
        by,
        detail,
        status=values.CANCELLED,
        not_before=None,
        grants=grants,
        **_NO_RESULT,
    )


def ended_failed(
    request: AnalysisRequest, now: float, by: str, detail: str, failure: Failure
) -> AnalysisRequest:
    """End a request as failed, whatever ended the work on it."""
    return changed(
        request,
        now,
        "failed",
        by,
        detail,
        status=values.FAILED,
        error=failure,
        not_before=None,
        **_NO_RESULT,
    )


def back_off(attempts: int, *, retry_s: float, jitter: float) -> float:
    """Return the seconds to wait after the given number of attempts: `retry_s` x 2^n, up to half more."""
    return float(min(_MAX_BACK_OFF_S, retry_s * 2 ** max(0, attempts - 1)) * (1 + jitter / 2))


def again_or_failed(
    request: AnalysisRequest, failure: Failure, now: float, by: str, *, retry_s: float, jitter: float
) -> AnalysisRequest:
    """Queue a request again after a failed attempt, or end it where no attempt is left."""
    detail = f"{failure.code}: {failure.message}"
    if failure.retryable and request.attempts < request.max_attempts:
        wait = back_off(request.attempts, retry_s=retry_s, jitter=jitter)
        return changed(
            request,
            now,
            "requeued",
            by,
            detail,
            status=values.PENDING,
            error=failure,
            not_before=now + wait,
        )
    return ended_failed(request, now, by, detail, failure)
