# SPDX-License-Identifier: AGPL-3.0-or-later
"""A worker delivers a result or says why there is none: verified first, accepted once, then published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orthanc_plugin.errors import ApiError, StorageError
from orthanc_plugin.queue import values
from orthanc_plugin.queue.delivery import (
    Delivery,
    artifact_mismatch,
    completed,
    failed,
    publishing,
    series_changed,
)
from orthanc_plugin.queue.leases import authorised, find_grant, require_deliverable
from orthanc_plugin.queue.values import AnalysisRequest, Artifact, Failure, canonical
from orthanc_plugin.results.artifacts import DICOM_TYPE
from orthanc_plugin.slides.eligibility import fingerprint
from orthanc_plugin.storage.store import source_deleted

from .artifacts import stored_intact
from .core import Core, find, unavailable
from .publish import alone, publish
from .record import write_record
from .report import LeaseProof
from .transact import change_request

_SUMMARY = ("predicted_class", "probabilities", "quality")
_MOST_IN_SUMMARY = 8 * 1024
"""Bytes; those of a result are some hundred. They lie in the state of the series, which has 64 KB in all."""


@dataclass(frozen=True)
class Named:
    """An artifact as the completion names it."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Result:
    """What a worker found, on the content `fingerprint`."""

    fingerprint: str
    artifacts: tuple[Named, ...]
    result: Mapping[str, Any]


def complete(
    core: Core, request_id: str, proof: LeaseProof, body_sha256: str, outcome: Result | Failure
) -> AnalysisRequest:
    """Take what a worker delivers, and return the request as it is then.

    The same token and body again gives the same answer, also after a restart.

    Parameters
    ----------
    core
        The queue.
    request_id
        The request.
    proof
        The worker's lease; it counts as long as nobody claimed since, even when it has expired.
    body_sha256
        SHA-256 of the canonical body.
    outcome
        The result, or why there is none.

    Raises
    ------
    ApiError
        409 ``lease_lost``, ``already_completed``, ``series_changed`` or ``artifact_mismatch``; 410 where the
        series is gone; 503 where Orthanc fails (send the same again).
    """
    try:
        with alone(core, request_id):
            core.store.load(find(core, request_id).series)  # after a write in doubt, read again
            request = find(core, request_id)
            if not _is_repeat(request, proof, body_sha256):
                authorised(request, proof.fence, proof.token_sha256)
                require_deliverable(request)
                _accept(core, request, proof, body_sha256, outcome)
            publish(core, request_id)
    except StorageError as error:
        raise unavailable(error) from error
    return find(core, request_id)


def _is_repeat(request: AnalysisRequest, proof: LeaseProof, body_sha256: str) -> bool:
    grant = find_grant(request, proof.fence, proof.token_sha256)
    if grant is None or grant.body_sha256 is None:
        return False
    if grant.body_sha256 != body_sha256:
        raise ApiError(409, "already_completed", "This lease has delivered something else already.")
    if grant.outcome in {values.SERIES_CHANGED, values.SOURCE_REPLACED}:
        raise _series_changed()
    return True


def _series_changed() -> ApiError:
    return ApiError(
        409, "series_changed", "The slide changed while it was analysed. Drop the work; it is queued again."
    )


def _accept(
    core: Core, request: AnalysisRequest, proof: LeaseProof, body_sha256: str, outcome: Result | Failure
) -> None:
    instances = core.gateway.instances(request.series)
    if not instances:
        raise source_deleted()
    content = fingerprint(instances)
    if _is_outdated(request, outcome, content):
        _requeue_changed(core, request.request_id, proof, body_sha256, content)
        raise _series_changed()
    if isinstance(outcome, Failure):
        _fail(core, request.request_id, proof, body_sha256, outcome)
    else:
        _deliver(core, request, proof, body_sha256, outcome)


def _is_outdated(request: AnalysisRequest, outcome: Result | Failure, content: str) -> bool:
    """Tell whether a worker speaks of a slide that has changed since, and another look may help.

    A slide that goes on changing fails, and so does one that was changed into what cannot be analysed.
    """
    if isinstance(outcome, Result):
        return outcome.fingerprint != content
    may_help = outcome.retryable and request.series_changes == 0
    return may_help and request.grants[-1].fingerprint != content


def _deliver(
    core: Core, request: AnalysisRequest, proof: LeaseProof, body_sha256: str, outcome: Result
) -> None:
    summary = _summary(outcome.result)
    artifacts = _verified(core, request, outcome.artifacts)
    record = write_record(core, request, outcome.result)
    delivery = Delivery(
        body_sha256=body_sha256,
        artifacts=artifacts,
        record=record,
        outputs=request.outputs if any(item.content_type == DICOM_TYPE for item in artifacts) else (),
        summary=summary,
        flags=() if _is_approved(core, request) else (values.UNAPPROVED_MODEL,),
    )

    def change(current: AnalysisRequest) -> AnalysisRequest:
        authorised(current, proof.fence, proof.token_sha256)
        now = core.clock.now()
        delivered = publishing(current, delivery, now)
        # Where there is nothing to store in between, both transitions are one write.
        return delivered if delivered.outputs else completed(delivered, (), now)

    change_request(core, request.request_id, change)
    core.tallies.timings(outcome.result.get("timings_s"))


def _summary(result: Mapping[str, Any]) -> str:
    summary = canonical({name: result[name] for name in _SUMMARY if name in result})
    if len(summary.encode()) > _MOST_IN_SUMMARY:
        names = ", ".join(_SUMMARY)
        raise ApiError(
            413,
            "body_too_large",
            f"These members of a result may have at most {_MOST_IN_SUMMARY} bytes together: {names}.",
        )
    return summary


def _is_approved(core: Core, request: AnalysisRequest) -> bool:
    """Tell whether the site has permitted what ran; an older worker does not say what that was."""
    return core.settings.models is not None and not request.grants[-1].tokenless


def _fail(core: Core, request_id: str, proof: LeaseProof, body_sha256: str, failure: Failure) -> None:
    def change(current: AnalysisRequest) -> AnalysisRequest:
        authorised(current, proof.fence, proof.token_sha256)
        return failed(
            current,
            failure,
            core.clock.now(),
            body_sha256=body_sha256,
            retry_s=core.settings.retry_s,
            jitter=core.clock.jitter(),
        )

    change_request(core, request_id, change)


def _requeue_changed(core: Core, request_id: str, proof: LeaseProof, body_sha256: str, content: str) -> None:
    def change(current: AnalysisRequest) -> AnalysisRequest:
        authorised(current, proof.fence, proof.token_sha256)
        return series_changed(current, content, core.clock.now(), body_sha256=body_sha256)

    change_request(core, request_id, change)


def _verified(core: Core, request: AnalysisRequest, named: tuple[Named, ...]) -> tuple[Artifact, ...]:
    """Return the stored artifacts that a completion names, each as announced."""
    stored = {artifact.name: artifact for artifact in request.artifacts}
    found = []
    for item in named:
        artifact = stored.get(item.name)
        if (
            artifact is None
            or (artifact.size, artifact.sha256) != (item.size, item.sha256)
            or not stored_intact(core, request.series, artifact)
        ):
            raise artifact_mismatch(item.name)
        found.append(artifact)
    return tuple(found)
