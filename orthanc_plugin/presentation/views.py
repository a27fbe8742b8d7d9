# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests, workers and files as the JSON of the contract (docs/rest.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from orthanc_plugin.fleet.workers import Worker
from orthanc_plugin.gateway import InstanceInfo
from orthanc_plugin.queue import values
from orthanc_plugin.queue.held_leases import Live
from orthanc_plugin.queue.leases import duration_of, is_due, is_prefetched
from orthanc_plugin.queue.values import AnalysisRequest, Artifact, Event, Failure, Output, Review
from orthanc_plugin.settings import Settings

from .notes import Note


@lru_cache(maxsize=1024)
def iso(at: float | None) -> str | None:
    """Return a time as UTC, ISO 8601 with milliseconds and ``Z``."""
    if at is None:
        return None
    second = int(at)
    # A microsecond more, since 0.123 may be 0.12299... in binary.
    milliseconds = min(999, int((at - second + 1e-6) * 1000))
    return f"{_iso_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _iso_second(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).isoformat()[: len("2026-11-26T12:00:00")]


@lru_cache(maxsize=128)
def _parsed(text: str) -> Any:
    """Return JSON that many requests have alike as a value to be shown, not to be changed."""
    return json.loads(text)


def artifact_member(artifact: Artifact) -> dict[str, Any]:
    """Return a file of a result."""
    return {
        "name": artifact.name,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "content_type": artifact.content_type,
    }


def _failure_member(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {"code": failure.code, "message": failure.message, "retryable": failure.retryable}


def _event_member(event: Event) -> dict[str, Any]:
    return {"at": iso(event.at), "event": event.event, "by": event.by, "detail": event.detail}


def _output_member(output: Output) -> dict[str, Any]:
    return {
        "modality": output.modality,
        "series_instance_uid": output.series_instance_uid,
        "series": output.series,
    }


def _review_member(review: Review | None) -> dict[str, Any] | None:
    if review is None:
        return None
    return {"verdict": review.verdict, "comment": review.comment, "by": review.by, "at": iso(review.at)}


def _attempt_members(request: AnalysisRequest) -> list[dict[str, Any]]:
    return [
        {
            "fence": grant.fence,
            "worker_id": grant.worker_id,
            "at": iso(grant.granted),
            "confirmed": grant.confirmed,
            "outcome": grant.outcome,
            "error": _failure_member(grant.error),
        }
        for grant in request.grants
    ]


def short_request(
    request: AnalysisRequest,
    live: Live,
    version: str,
    *,
    now: float,
    arriving: bool = False,
    notes: Iterable[Note] = (),
) -> dict[str, Any]:
    """Return a request as lists show it: without history and result.

    With `arriving` files of its slide may still come; that, or the time of its next attempt after `now`, is
    what it waits for while it is pending; `notes` say what stands in its way.
    """
    model = request.bound_model
    grant = request.grant
    at_work = request.status in {values.PROCESSING, values.PUBLISHING}
    shown = {values.PUBLISHING, values.COMPLETED}
    return {
        "schema": 1,
        "request_id": request.request_id,
        "status": request.status,
        "waits_for": _waits_for(request, now, arriving=arriving),
        "notes": [_note_member(note) for note in notes],
        "series": request.series,
        "study": request.study,
        "series_instance_uid": request.series_instance_uid,
        "study_instance_uid": request.study_instance_uid,
        "model": model.name or None,
        "model_version": model.version,
        "model_sha256": model.sha256,
        "parameters": _parsed(request.parameters),
        "priority": request.priority,
        "fingerprint": request.fingerprint,
        "created": iso(request.created),
        "updated": iso(request.updated),
        "created_by": request.created_by,
        "waiting_since": iso(_waiting_since(request)),
        "attempts": request.attempts,
        "max_attempts": request.max_attempts,
        "fence": request.fence,
        "not_before": iso(request.not_before),
        "worker_id": grant.worker_id if grant is not None and (at_work or not request.is_open) else None,
        "stage": live.stage,
        "progress": live.progress,
        "detail": live.detail,
        "cancel_requested": request.cancel_requested,
        "error": _failure_member(request.error),
        "summary": None if request.summary is None else json.loads(request.summary),
        "artifacts": [artifact_member(item) for item in request.artifacts if request.status in shown],
        "dicom": [_output_member(item) for item in request.outputs if request.status == values.COMPLETED],
        "review": _review_member(request.review),
        "predecessor": request.predecessor,
        "flags": list(request.flags),
        "version": version,
    }


def _waiting_since(request: AnalysisRequest) -> float:
    """Return when it began to wait for the worker that it waits for, or was given to last."""
    if request.status == values.PENDING:
        return request.updated
    events = request.history
    claims = (number for number in reversed(range(1, len(events))) if events[number].event == "claimed")
    return next((events[number - 1].at for number in claims), request.created)


def _waits_for(request: AnalysisRequest, now: float, *, arriving: bool) -> str | None:
    if request.status != values.PENDING:
        return None
    if arriving:
        return "slide"
    return "worker" if is_due(request, now) else "retry"


def _note_member(note: Note) -> dict[str, Any]:
    return {"code": note.code, "message": note.message, "offered": list(note.offered)}


def full_request(request: AnalysisRequest, short: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """Return a request with its history, its attempts and its result beside what is `short` of it.

    `result` is None where there is none, or where it cannot be read any more, which is flagged.
    """
    is_lost = request.status == values.COMPLETED and request.record is not None and result is None
    return {
        **short,
        "flags": [*request.flags, *([values.RESULT_UNREADABLE] if is_lost else [])],
        "result": result,
        "grants": _attempt_members(request),
        "history": [_event_member(event) for event in request.history],
    }


def lease_member(settings: Settings, request: AnalysisRequest) -> dict[str, Any]:
    """Return the lease and the intervals that the worker is to use."""
    lease_s = settings.lease_s if request.grant is None else duration_of(request.grant, settings.lease_s)
    return {
        "fence": request.fence,
        "prefetch": is_prefetched(request),
        "duration_s": lease_s,
        "heartbeat_s": settings.heartbeat_s,
        "confirm_s": settings.confirm_s,
    }


def instance_members(instances: Iterable[InstanceInfo]) -> list[dict[str, Any]]:
    """Return the files of a slide."""
    return [
        {
            "id": instance.instance_id,
            "sop_instance_uid": instance.sop_instance_uid,
            "uuid": instance.uuid,
            "size": instance.size,
            "image_type": list(instance.image_type),
        }
        for instance in instances
    ]


def worker_member(
    worker: Worker, *, alive: bool, drain: bool, working_on: str | None, shared_name: bool = False
) -> dict[str, Any]:
    """Return a worker and what it is doing."""
    return {
        "worker_id": worker.worker_id,
        "alive": alive,
        "last_seen": iso(worker.seen),
        "software": worker.software,
        "device": worker.device,
        "models": [
            {"name": model.name, "version": model.version, "sha256": model.sha256} for model in worker.models
        ],
        "default_model": worker.default_model,
        "request_id": working_on,
        "drain": drain,
        "shared_name": shared_name,
        "counters": dict(worker.counters),
    }


def silent_member(worker_id: str, *, working_on: str | None) -> dict[str, Any]:
    """Return a drained worker that nothing was heard of: its name is all that a restart keeps."""
    unknown = Worker(worker_id, "", "", "", (), None, seen=0.0, seen_monotonic=0.0)
    return {**worker_member(unknown, alive=False, drain=True, working_on=working_on), "last_seen": None}
