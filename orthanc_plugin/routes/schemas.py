# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bodies of docs/rest.md as JSON Schema (draft 2020-12, as OpenAPI 3.1 has it)."""

from __future__ import annotations

from typing import Any

from orthanc_plugin.fleet.counters import KNOWN
from orthanc_plugin.presentation.notes import CODES as NOTE_CODES
from orthanc_plugin.queue.values import FLAGS, OUTCOMES, STATUSES
from orthanc_plugin.results.artifacts import MOST_ARTIFACTS
from orthanc_plugin.service.targets import MAX_SERIES_OF_COHORT

from .ranges import MAX_BYTES, MAX_RANGES

Schema = dict[str, Any]


def text(longest: int = 200, *, shortest: int = 1, **more: Any) -> Schema:
    """Return the schema of a text."""
    return {"type": "string", "minLength": shortest, "maxLength": longest, **more}


def number(low: float, high: float, *, kind: str = "number") -> Schema:
    """Return the schema of a number within bounds."""
    return {"type": kind, "minimum": low, "maximum": high}


def nullable(schema: Schema) -> Schema:
    """Return a schema that allows null besides."""
    return {**schema, "type": [schema["type"], "null"]}


def record(properties: dict[str, Schema], *required: str, closed: bool = False) -> Schema:
    """Return the schema of an object; `closed` allows no further members."""
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    if closed:
        schema["additionalProperties"] = False
    return schema


def whole(**properties: Schema) -> Schema:
    """Return the schema of an object that has all of these members."""
    return record(properties, *properties)


def done(**properties: Schema) -> Schema:
    """Return the schema of a success that has all of these members."""
    return whole(success={"const": True}, **properties)


def many(items: Schema, most: int | None = None) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **({} if most is None else {"maxItems": most})}


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


_FLAG: Schema = {"type": "boolean"}
_ID = text(64)
_ANY_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}$"}
_TOKEN: Schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_PROOF = {"worker_id": _NAME, "token": _TOKEN, "fence": number(1, 2**31, kind="integer")}
_OLDER = {"worker_id": nullable(_NAME)}
_MODEL = {"name": _ANY_TEXT, "version": nullable(_ANY_TEXT), "sha256": nullable(_SHA256)}
_COUNTERS = record({name: number(0, 1e18) for name in KNOWN})
_STATE: dict[str, Schema] = {
    "status": {"enum": ["processing", "pending", "cancelled"]},
    "stage": nullable(text(50)),
    "progress": nullable(number(0, 1)),
    "detail": nullable(text()),
    "prefetch": _FLAG,
    "counters": _COUNTERS,
}
_FAILURE = whole(code=_NAME, message=text(2000, shortest=0), retryable=_FLAG)
_VERDICT: Schema = {"enum": ["agree", "disagree", "unusable"]}
_REVIEW = whole(verdict=_VERDICT, comment=_ANY_TEXT, by=_ANY_TEXT, at=_TIME)
_EVENT = whole(at=_TIME, event=_ANY_TEXT, by=_ANY_TEXT, detail=_ANY_TEXT)
_NOTE = whole(code={"enum": list(NOTE_CODES)}, message=_ANY_TEXT, offered=many(_ANY_TEXT))
_ARTIFACT = whole(name=_ANY_TEXT, size={"type": "integer"}, sha256=_SHA256, content_type=_ANY_TEXT)
_OUTPUT = whole(modality=_ANY_TEXT, series_instance_uid=_ANY_TEXT, series=nullable(_ANY_TEXT))
_INSTANCE = whole(
    id=_ANY_TEXT,
    sop_instance_uid=_ANY_TEXT,
    uuid=_ANY_TEXT,
    size={"type": "integer"},
    image_type=many(_ANY_TEXT),
)
_LEASE = whole(
    fence={"type": "integer"},
    prefetch=_FLAG,
    duration_s={"type": "number"},
    heartbeat_s={"type": "number"},
    confirm_s={"type": "number"},
)
_RANGE: Schema = {
    "type": "array",
    "prefixItems": [number(0, 2**62, kind="integer"), number(1, MAX_BYTES, kind="integer")],
    "minItems": 2,
    "maxItems": 2,
}
_NAMED = whole(name=text(), size=number(0, 2**31, kind="integer"), sha256=_SHA256)
_COHORT = record(
    {
        "series": {**many(_ID, MAX_SERIES_OF_COHORT), "minItems": 1},
        "find": {
            "type": "object",
            "additionalProperties": text(1000),
            "minProperties": 1,
            "maxProperties": 20,
        },
    },
    closed=True,
)


def _or_of_older(current: Schema, older: Schema) -> Schema:
    """Return the schema of a body that older workers send in another form, without a token."""
    told = "An older worker's, where Pathology.AllowTokenless lets it work."
    return {"anyOf": [current, {**older, "description": told, "not": {"required": ["token"]}}]}


SCHEMAS: dict[str, Schema] = {
    "Error": record(
        {
            "success": {"const": False},
            "code": _ANY_TEXT,
            "error": _ANY_TEXT,
            "field": _ANY_TEXT,
            "candidates": many(_ANY_TEXT),
        },
        "success",
        "code",
        "error",
    ),
    "Request": record(
        {
            "schema": {"type": "integer"},
            "request_id": _ANY_TEXT,
            "status": {"enum": list(STATUSES)},
            "waits_for": {"enum": ["slide", "retry", "worker", None]},
            "notes": many(_NOTE),
            "series": _ANY_TEXT,
            "study": _ANY_TEXT,
            "series_instance_uid": _ANY_TEXT,
            "study_instance_uid": _ANY_TEXT,
            "model": nullable(_ANY_TEXT),
            "model_version": nullable(_ANY_TEXT),
            "model_sha256": nullable(_SHA256),
            "parameters": {"type": "object"},
            "priority": {"type": "integer"},
            "fingerprint": _SHA256,
            "created": _TIME,
            "updated": _TIME,
            "created_by": _ANY_TEXT,
            "waiting_since": _TIME,
            "attempts": {"type": "integer"},
            "max_attempts": {"type": "integer"},
            "fence": {"type": "integer"},
            "not_before": nullable(_TIME),
            "worker_id": nullable(_ANY_TEXT),
            "stage": nullable(_ANY_TEXT),
            "progress": nullable({"type": "number"}),
            "detail": nullable(_ANY_TEXT),
            "cancel_requested": _FLAG,
            "error": nullable(_FAILURE),
            "summary": nullable({"type": "object"}),
            "result": nullable({"type": "object"}),
            "artifacts": many(_ARTIFACT),
            "dicom": many(_OUTPUT),
            "review": nullable(_REVIEW),
            "predecessor": nullable(_ANY_TEXT),
            "flags": many({"enum": list(FLAGS)}),
            "grants": many(ref("Attempt")),
            "history": many(_EVENT),
            "version": _ANY_TEXT,
        },
        "request_id",
        "status",
        "series",
        "version",
    ),
    "Attempt": whole(
        fence={"type": "integer", "minimum": 1},
        worker_id=_ANY_TEXT,
        at=_TIME,
        confirmed=_FLAG,
        outcome={"enum": [*OUTCOMES, None], "description": "null while it holds."},
        error=nullable(_FAILURE),
    ),
    "Analyze": record(
        {
            "series": _ID,
            "study": _ID,
            "instance": _ID,
            "series_instance_uid": _ID,
            "study_instance_uid": _ID,
            "cohort": _COHORT,
            "model": text(100),
            "model_version": text(100),
            "parameters": {"type": "object"},
            "priority": number(-100, 100, kind="integer"),
            "force": _FLAG,
        },
        closed=True,
    ),
    "Claim": record(
        {
            "worker_id": _NAME,
            "token": _TOKEN,
            "api": {"type": "integer"},
            "wait": number(0, 3600),
            "models": many(
                record(
                    {"name": text(100), "version": nullable(text(100)), "sha256": nullable(_SHA256)}, "name"
                ),
                100,
            ),
            "default_model": nullable(text(100)),
            "software": nullable(text()),
            "device": nullable(text()),
            "prefetch": _FLAG,
            "leaving": _FLAG,
            "process": nullable(text(64)),
            "counters": _COUNTERS,
        },
        "worker_id",
        "token",
    ),
    "Report": _or_of_older(record({**_PROOF, **_STATE}, *_PROOF), record({**_OLDER, **_STATE})),
    "Completion": _or_of_older(
        record(
            {
                **_PROOF,
                "fingerprint": _SHA256,
                "artifacts": many(_NAMED, MOST_ARTIFACTS),
                "result": {"type": "object"},
                "error": _FAILURE,
            },
            *_PROOF,
        ),
        record({**_OLDER, "result": {"type": "object"}, "error": text(2000, shortest=0)}),
    ),
    "Empty": record({}),
    "Withdraw": whole(reason=text(500)),
    "Review": record(
        {"verdict": _VERDICT, "comment": nullable(text(2000, shortest=0))},
        "verdict",
    ),
    "Drain": record({"drain": _FLAG}),
    "Ranges": whole(ranges={**many(_RANGE, MAX_RANGES), "minItems": 1}),
    "One": done(request=ref("Request")),
    "Submitted": record(
        {
            "success": {"const": True},
            "request_id": _ANY_TEXT,
            "created": _FLAG,
            "request": ref("Request"),
            "warnings": many(_ANY_TEXT),
            "estimated_wait_s": nullable({"type": "number"}),
            "requests": many(ref("Request")),
            "skipped": many({"type": "object"}),
            "summary": {"type": "object"},
        },
        "success",
        "request_id",
        "request",
    ),
    "List": record(
        {
            "success": {"const": True},
            "count": {"type": "integer"},
            "requests": many(ref("Request")),
            "next": nullable(_ANY_TEXT),
        },
        "success",
        "count",
        "requests",
    ),
    "Granted": record(
        {
            "success": {"const": True},
            "request": ref("Request"),
            "lease": _LEASE,
            "instances": many(_INSTANCE),
            "retry_after_s": {"type": "number"},
        },
        "success",
        "request",
        "lease",
        "instances",
    ),
    "Models": done(models=many(whole(**_MODEL, workers=many(_NAME)))),
    "Workers": record(
        {
            "success": {"const": True},
            "count": {"type": "integer"},
            "workers": many(
                record(
                    {
                        "worker_id": _NAME,
                        "alive": _FLAG,
                        "last_seen": nullable(_TIME),
                        "software": _ANY_TEXT,
                        "device": _ANY_TEXT,
                        "models": many(whole(**_MODEL)),
                        "default_model": nullable(_ANY_TEXT),
                        "request_id": nullable(_ANY_TEXT),
                        "drain": _FLAG,
                        "shared_name": _FLAG,
                        "counters": _COUNTERS,
                    },
                    "worker_id",
                    "alive",
                    "models",
                    "drain",
                )
            ),
        },
        "success",
        "workers",
    ),
    "Orders": done(status={"enum": list(STATUSES)}, cancel=_FLAG, drain=_FLAG, lease=_LEASE),
    "Kept": done(artifact=_ARTIFACT),
    "Drained": done(worker_id=_ANY_TEXT, drain=_FLAG),
    "Frames": done(
        transfer_syntax=_ANY_TEXT,
        frames={"type": "integer"},
        offsets=many({"type": "integer"}),
        lengths=many({"type": "integer"}),
    ),
    "Health": done(
        status={"enum": ["ok", "starting"]},
        complete=_FLAG,
        api={"type": "integer"},
        version=_ANY_TEXT,
        source=_ANY_TEXT,
        orthanc=_ANY_TEXT,
        requests={"type": "object", "additionalProperties": {"type": "integer"}},
        waiting=whole(claims={"type": "integer"}, pages={"type": "integer"}),
        workers_alive={"type": "integer"},
    ),
}
