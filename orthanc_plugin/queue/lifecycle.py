# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a request gets from one state to the next: pure functions, the clock passed in.

pending -> processing -> publishing -> completed -> withdrawn
   ^           |  |
   +-----------+  +-> failed, cancelled

Here is what a person decides and what happens to the slide; `leases` has what a worker holds, `delivery` what
it brings. Every function returns a new request or raises the `ApiError` that the client gets; none of them
reads a clock, a random number or Orthanc.
"""

from __future__ import annotations

from typing import Any

from . import values
from .leases import DELIVERABLE
from .transition import attempts_uncounted, changed, ended_cancelled, with_last_grant, wrong_state
from .values import AnalysisRequest, Grant, Model, Review, replaced

_DECIDED_WHILE_OPEN = frozenset({"retried", "cancel_requested"})
_AGAIN = {values.COMPLETED: "Submit the slide again with force.", values.WITHDRAWN: "Submit the slide again."}


def submitted(request: AnalysisRequest) -> AnalysisRequest:
    """Return a new request with the first line of its history."""
    return changed(request, request.created, "submitted", request.created_by)


def as_submitted(request: AnalysisRequest) -> AnalysisRequest:
    """Return an open request without what became of it, as a copy of it is kept.

    A request that is restored from its copy takes nothing from an earlier lease: others may have been given
    since.
    """
    if not request.grants:
        return request
    return replaced(
        request,
        status=values.PENDING,
        fence=0,
        attempts=0,
        not_before=None,
        cancel_requested=False,
        series_changes=0,
        error=None,
        grants=(),
        artifacts=(),
        record=None,
        outputs=(),
        summary=None,
    )


def same_wish(old: AnalysisRequest, new: AnalysisRequest) -> bool:
    """Tell whether an earlier request asks for the same analysis of the same content as a new one.

    Once it has its result it also stands for who asks for the model that it turned out to be.
    """
    is_alike = (old.series, old.parameters) == (new.series, new.parameters)
    return is_alike and _same_model(old, new) and covers(old, new.fingerprint)


def _same_model(old: AnalysisRequest, new: AnalysisRequest) -> bool:
    if (old.model, old.model_version) == (new.model, new.model_version):
        return True
    is_settled = old.status in {values.PUBLISHING, values.COMPLETED}
    return is_settled and new.model is not None and accepts(new, old.bound_model)


def covers(request: AnalysisRequest, fingerprint: str) -> bool:
    """Tell whether a request is about this content of its slide, or will be.

    One that waits takes the content that it finds when it is claimed, and one at work is given again, once,
    where its slide has changed by its end; an older worker's result is taken for what it was given.
    """
    if request.fingerprint == fingerprint or request.status == values.PENDING:
        return True
    is_at_work = request.status == values.PROCESSING and not request.grants[-1].tokenless
    return is_at_work and request.series_changes == 0


def counts_as_repeat(request: AnalysisRequest) -> bool:
    """Tell whether a request still stands for its wish; failed, cancelled and withdrawn ones do not.

    Nor does one whose result went with its slide, which was stored again.
    """
    return request.is_open or (request.status == values.COMPLETED and request.record is not None)


def accepts(request: AnalysisRequest, model: Model) -> bool:
    """Tell whether `model` is what the request asks for (a request that names none takes any)."""
    return request.model in {None, model.name} and request.model_version in {None, model.version}


def cancelled(request: AnalysisRequest, by: str, now: float) -> AnalysisRequest:
    """Cancel at once what is pending; ask the worker where one is at it. Again is no error."""
    if request.status == values.CANCELLED or (
        request.status == values.PROCESSING and request.cancel_requested
    ):
        return request
    if request.status == values.PENDING:
        return ended_cancelled(request, now, by, "")
    if request.status == values.PROCESSING:
        return changed(request, now, "cancel_requested", by, cancel_requested=True)
    raise wrong_state(request, "cancelled")


def retried(request: AnalysisRequest, by: str, now: float) -> AnalysisRequest:
    """Give a failed or cancelled request a fresh set of attempts; one that waits is made due now.

    The same again is no error while the request is open: a first answer may have been lost, and where two
    people retry it both have what they want, as with a cancel.
    """
    if request.status == values.PENDING:
        return (
            request if request.not_before is None else changed(request, now, "retried", by, not_before=None)
        )
    if request.is_open and _latest_decision(request) == "retried":
        return request
    if request.status not in {values.FAILED, values.CANCELLED}:
        remedy = "Wait for its end." if request.is_open else _AGAIN[request.status]
        raise wrong_state(request, "retried", remedy)
    return changed(
        request,
        now,
        "retried",
        by,
        status=values.PENDING,
        attempts=0,
        series_changes=0,
        cancel_requested=False,
        grants=_ended_by_person(request),
    )


def _latest_decision(request: AnalysisRequest) -> str | None:
    """Return what a person decided last of an open request."""
    decided = [item.event for item in request.history if item.event in _DECIDED_WHILE_OPEN]
    return decided[-1] if decided else None


def _ended_by_person(request: AnalysisRequest) -> tuple[Grant, ...]:
    """Let the latest lease bring nothing more; what became of one that has ended before stays known."""
    if request.grant is None or request.grant.outcome not in DELIVERABLE:
        return request.grants
    return with_last_grant(request, outcome=values.ENDED_BY_PERSON)


def withdrawn(request: AnalysisRequest, by: str, reason: str, now: float) -> AnalysisRequest:
    """Take a result back; the record stays, its artifacts and DICOM series go (see `is_to_be_deleted`).

    The same again, whose first answer may have been lost, is no error.
    """
    if request.status == values.WITHDRAWN and _has_happened(request, "withdrawn", by, reason):
        return request
    if request.status != values.COMPLETED:
        raise wrong_state(request, "withdrawn")
    return changed(request, now, "withdrawn", by, reason, status=values.WITHDRAWN)


def _has_happened(request: AnalysisRequest, event: str, by: str, detail: str) -> bool:
    return any((item.event, item.by, item.detail) == (event, by, detail) for item in request.history)


def is_to_be_deleted(request: AnalysisRequest) -> bool:
    """Tell whether artifacts or DICOM series of a withdrawn result are still to be deleted."""
    return request.status == values.WITHDRAWN and bool(request.artifacts or request.outputs)


def result_deleted(request: AnalysisRequest) -> AnalysisRequest:
    """Forget the artifacts and DICOM series of a withdrawn result once they are deleted."""
    return replaced(request, artifacts=(), outputs=())


def reviewed(request: AnalysisRequest, review: Review) -> AnalysisRequest:
    """Note a verdict; a later one replaces it, the history keeps both. The same again is no error."""
    known = request.review
    if known is not None and replaced(known, at=review.at) == review:
        return request
    if request.status != values.COMPLETED:
        raise wrong_state(request, "reviewed")
    detail = review.verdict if not review.comment else f"{review.verdict}: {review.comment}"
    return changed(request, review.at, "reviewed", review.by, detail, review=review)


def source_replaced(request: AnalysisRequest, fingerprint: str, now: float) -> AnalysisRequest:
    """Carry a request over to a series that was deleted and stored again under the same identity."""
    # What a lease has reserved for its result stays reserved: a slide stored again unchanged costs no work.
    lost: dict[str, Any] = {"artifacts": ()}
    flags = tuple(dict.fromkeys((*request.flags, values.SOURCE_REPLACED)))
    if not request.is_open:
        return changed(request, now, values.SOURCE_REPLACED, "", flags=flags, record=None, **lost)
    if request.status == values.PUBLISHING:
        lost.update(status=values.PENDING, record=None, outputs=(), summary=None)
        lost.update(attempts=attempts_uncounted(request))
        lost.update(grants=with_last_grant(request, outcome=values.SOURCE_REPLACED))
    return changed(request, now, values.SOURCE_REPLACED, "", fingerprint=fingerprint, flags=flags, **lost)


def slide_settled(request: AnalysisRequest, fingerprint: str, now: float) -> AnalysisRequest:
    """Note on a result that its slide, all of whose files have arrived, is not what was analysed."""
    is_noted = {values.SOURCE_REPLACED, values.SLIDE_CHANGED} & set(request.flags)
    if request.status != values.COMPLETED or request.fingerprint == fingerprint or is_noted:
        return request
    return changed(request, now, values.SLIDE_CHANGED, "", flags=(*request.flags, values.SLIDE_CHANGED))
