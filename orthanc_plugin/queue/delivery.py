# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a worker delivers, as transitions: files, a result, an error, or a slide that has changed since."""

from __future__ import annotations

from dataclasses import dataclass

from orthanc_plugin.errors import ApiError

from . import values
from .leases import require_deliverable
from .transition import (
    again_or_failed,
    attempts_counted,
    attempts_uncounted,
    changed,
    ended_cancelled,
    ended_failed,
    with_last_grant,
)
from .values import AnalysisRequest, Artifact, Failure, Output, replaced


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
    counted = replaced(
        request,
        attempts=attempts_counted(request),
        grants=with_last_grant(
            request, confirmed=True, outcome=values.FAILED, error=failure, body_sha256=body_sha256
        ),
    )
    if request.cancel_requested:
        return ended_cancelled(counted, now, grant.worker_id, failure.code)
    return again_or_failed(counted, failure, now, grant.worker_id, retry_s=retry_s, jitter=jitter)


def held(request: AnalysisRequest, sent: Artifact) -> Artifact | None:
    """Return the artifact of a request that is the very file `sent`, whatever its number."""
    same = (item for item in request.artifacts if replaced(item, number=sent.number) == sent)
    return next(same, None)


def with_artifact(request: AnalysisRequest, artifact: Artifact, output: Output | None) -> AnalysisRequest:
    """Reserve an attachment under the latest grant; an artifact of the same name is replaced."""
    require_deliverable(request)
    old = next((item for item in request.artifacts if item.name == artifact.name), None)
    kept = tuple(item for item in request.artifacts if item is not old)
    outputs = request.outputs
    if output is not None:
        outputs = (*(item for item in outputs if item.sop_instance_uid != output.sop_instance_uid), output)
    return replaced(request, artifacts=(*kept, artifact), outputs=outputs)


def series_changed(
    request: AnalysisRequest, fingerprint: str, now: float, *, body_sha256: str
) -> AnalysisRequest:
    """Give a request again, once and uncounted, whose slide differs from the one that was analysed."""
    require_deliverable(request)
    grant = request.grants[-1]
    ended = replaced(
        request,
        fingerprint=fingerprint,
        series_changes=request.series_changes + 1,
        attempts=attempts_uncounted(request),
        grants=with_last_grant(request, outcome=values.SERIES_CHANGED, body_sha256=body_sha256),
    )
    if request.cancel_requested:
        return ended_cancelled(ended, now, grant.worker_id, values.SERIES_CHANGED)
    if request.series_changes >= 1:
        failure = Failure(
            values.SERIES_CHANGED, "The slide kept changing while it was analysed.", retryable=False
        )
        return ended_failed(ended, now, grant.worker_id, failure.message, failure)
    return changed(
        ended,
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
    for artifact in delivery.artifacts:
        if artifact not in request.artifacts:  # sent again since it was verified
            raise artifact_mismatch(artifact.name)
    detail = "a cancel came too late" if request.cancel_requested else ""
    return changed(
        request,
        now,
        values.DELIVERED,
        request.grants[-1].worker_id,
        detail,
        status=values.PUBLISHING,
        attempts=attempts_counted(request),
        not_before=None,
        cancel_requested=False,
        error=None,
        artifacts=delivery.artifacts,
        record=delivery.record,
        outputs=delivery.outputs,
        summary=delivery.summary,
        flags=delivery.flags,  # what was said of a slide or a result before is not true of this one
        grants=with_last_grant(
            request, confirmed=True, outcome=values.DELIVERED, body_sha256=delivery.body_sha256
        ),
    )


def artifact_mismatch(name: str) -> ApiError:
    """Return the 409 for a file that is not here as a completion names it."""
    return ApiError(
        409, "artifact_mismatch", f"{name} did not arrive as announced. Send it again, then complete."
    )


def completed(
    request: AnalysisRequest, outputs: tuple[Output, ...], now: float, *, refused: tuple[str, ...] = ()
) -> AnalysisRequest:
    """Finish a request whose DICOM results are stored, but for those that Orthanc has `refused`."""
    if request.status != values.PUBLISHING:
        return request
    return changed(
        request,
        now,
        "completed",
        "",
        "; ".join(refused),
        status=values.COMPLETED,
        outputs=outputs,
        flags=(*request.flags, values.DICOM_RESULTS_REFUSED) if refused else request.flags,
    )
