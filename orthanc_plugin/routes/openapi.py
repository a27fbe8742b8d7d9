# SPDX-License-Identifier: AGPL-3.0-or-later
"""The OpenAPI document, put together from the table of routes: each route, its bodies and who may use it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orthanc_plugin import __version__
from orthanc_plugin.queue.values import STATUSES
from orthanc_plugin.results.artifacts import KINDS

from . import source
from .metrics import CONTENT_TYPE as METRICS_TYPE
from .pages import CONTENT_TYPES, ROOT_TWICE
from .router import ROOT, Route
from .schemas import SCHEMAS, ref

_JSON = "application/json"
_BYTES = "application/octet-stream"
_PAGES = ",".join(CONTENT_TYPES.values())
_ARTIFACTS = ",".join(kind.content_type for kind in KINDS)
_WITHOUT_BODY = {
    "204": "Nothing to do; X-Pathology-Drain is true where a person lets this worker take nothing more.",
    "302": "It lies elsewhere.",
    "304": "Nothing new.",
}
_ERRORS = ("403", "404", "409", "410", "413", "415", "422", "429", "503")


@dataclass(frozen=True)
class Operation:
    """What the table of routes does not say of a route.

    Attributes
    ----------
    who
        Who may use it.
    body, answer
        Names in `SCHEMAS`; None where there is none or it is no JSON.
    body_type, answer_type
        Content types; several with a comma between.
    statuses
        Successes, such as ``200`` and ``204``; only 200 and 201 carry the answer.
    query, headers
        Parameters with their schemas.
    """

    who: str
    body: str | None = None
    answer: str | None = None
    body_type: str = _JSON
    answer_type: str = _JSON
    statuses: tuple[str, ...] = ("200",)
    query: tuple[tuple[str, dict[str, Any]], ...] = ()
    headers: tuple[tuple[str, dict[str, Any]], ...] = ()


_PERSON, _WORKER, _ALL, _MONITOR = "person", "worker", "person, worker", "person, worker, monitor"
_TEXT: dict[str, Any] = {"type": "string"}
_WAIT: tuple[str, dict[str, Any]] = ("wait", {"type": "number", "minimum": 0, "maximum": 3600})
_LIST_QUERY: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {"type": "string", "description": "one or several (a,b) of " + ", ".join(STATUSES)}),
    ("series", _TEXT),
    ("study", _TEXT),
    ("model", _TEXT),
    ("since", {"type": "string", "format": "date-time"}),
    ("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
    ("cursor", _TEXT),
    ("order", {"enum": ["oldest", "newest"]}),
    ("full", {"enum": ["0", "1"]}),
)
_LEASE_HEADERS = (
    ("X-Pathology-Token", {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
    ("X-Pathology-Fence", {"type": "integer", "minimum": 1}),
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/analyze"): Operation(_PERSON, "Analyze", "Submitted", statuses=("200", "201")),
    ("GET", "/pending-requests"): Operation(_ALL, answer="List", query=(_WAIT,)),
    ("POST", "/claim"): Operation(_WORKER, "Claim", "Granted", statuses=("200", "204")),
    ("POST", "/update-status/{request_id}"): Operation(_WORKER, "Report", "Orders"),
    ("POST", "/complete-request/{request_id}"): Operation(_WORKER, "Completion", "One"),
    ("GET", "/requests"): Operation(_ALL, answer="List", query=_LIST_QUERY),
    ("GET", "/requests/{request_id}"): Operation(_ALL, answer="One", query=(_WAIT, ("version", _TEXT))),
    ("PUT", "/requests/{request_id}/artifacts/{name}"): Operation(
        _WORKER, answer="Kept", body_type=_ARTIFACTS, headers=_LEASE_HEADERS
    ),
    ("GET", "/requests/{request_id}/artifacts/{name}"): Operation(
        _ALL, answer=None, answer_type=_ARTIFACTS, statuses=("200", "304")
    ),
    ("GET", "/requests/{request_id}/export/{form}"): Operation(
        _PERSON, answer=None, answer_type="application/geo+json,text/csv,application/x-hdf5"
    ),
    ("POST", "/requests/{request_id}/cancel"): Operation(_PERSON, "Empty", "One"),
    ("POST", "/requests/{request_id}/retry"): Operation(_PERSON, "Empty", "One"),
    ("POST", "/requests/{request_id}/withdraw"): Operation(_PERSON, "Withdraw", "One"),
    ("POST", "/requests/{request_id}/review"): Operation(_PERSON, "Review", "One"),
    ("GET", "/models"): Operation(_ALL, answer="Models"),
    ("GET", "/workers"): Operation(_ALL, answer="Workers"),
    ("POST", "/workers/{worker_id}/drain"): Operation(_PERSON, "Drain", "Drained"),
    ("POST", "/instances/{instance_id}/ranges"): Operation(_ALL, "Ranges", None, answer_type=_BYTES),
    ("GET", "/instances/{instance_id}/frames"): Operation(_ALL, answer="Frames"),
    ("GET", "/health"): Operation(_MONITOR, answer="Health"),
    ("GET", "/metrics"): Operation(_MONITOR, answer=None, answer_type=METRICS_TYPE),
    ("GET", "/openapi.json"): Operation(_ALL, answer=None),
    ("GET", source.PATH): Operation(_PERSON, answer=None, answer_type=source.ARCHIVE_TYPE),
    ("GET", "/"): Operation(_PERSON, answer=None, statuses=("302",)),
    ("GET", ROOT_TWICE): Operation(_PERSON, answer=None, statuses=("302",)),
    ("GET", "/app"): Operation(_PERSON, answer=None, statuses=("302",)),
    ("GET", "/app/{path*}"): Operation(
        _PERSON, answer=None, answer_type=_PAGES, statuses=("200", "302", "304")
    ),
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a table of routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = ROOT + route.path.replace("*}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Pathology analysis in Orthanc",
            "version": __version__,
            "license": {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "security": [{"basic": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
            "schemas": SCHEMAS,
            "responses": {
                "Error": {
                    "description": "Why it was not done, and what to do.",
                    "content": {_JSON: {"schema": ref("Error")}},
                },
                "Malformed": {
                    "description": "What is wrong with the request; Orthanc's own text where it is no HTTP.",
                    "content": {_JSON: {"schema": ref("Error")}, "text/plain": {}},
                },
                "Unknown": {"description": "Orthanc does not know this user and password; no body."},
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    known = OPERATIONS[route.method, route.path]
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^a-z]+', '_', route.path)}".strip("_"),
        "summary": (route.handler.__doc__ or "").split("\n", 1)[0],
        "description": f"For: {known.who}.",
        "parameters": _parameters(route, known),
        "responses": {
            **{status: _success(known, status) for status in known.statuses},
            "400": {"$ref": "#/components/responses/Malformed"},
            "401": {"$ref": "#/components/responses/Unknown"},
            **{status: {"$ref": "#/components/responses/Error"} for status in _ERRORS},
        },
    }
    if route.method in {"POST", "PUT"}:
        schema = {} if known.body is None else {"schema": ref(known.body)}
        operation["requestBody"] = {"required": True, "content": _content(known.body_type, schema)}
    return operation


def _parameters(route: Route, known: Operation) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in re.findall(r"\{(\w+)\*?\}", route.path)
    ]
    in_query = [{"name": name, "in": "query", "schema": schema} for name, schema in known.query]
    in_head = [
        {"name": name, "in": "header", "required": True, "schema": schema} for name, schema in known.headers
    ]
    return [*in_path, *in_query, *in_head]


def _success(known: Operation, status: str) -> dict[str, Any]:
    if status in _WITHOUT_BODY:
        return {"description": _WITHOUT_BODY[status]}
    schema = {} if known.answer is None else {"schema": ref(known.answer)}
    return {"description": "Done.", "content": _content(known.answer_type, schema)}


def _content(types: str, schema: dict[str, Any]) -> dict[str, Any]:
    return dict.fromkeys(types.split(","), schema)
