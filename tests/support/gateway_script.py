# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs inside Orthanc: lets a test outside call the methods of the real `OrthancGateway`."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import sys
from typing import Any

sys.path.insert(0, os.environ["PATHOLOGY_HOME"])

from orthanc_plugin.errors import StorageError
from orthanc_plugin.host import orthanc_api, orthanc_callbacks
from orthanc_plugin.host.orthanc_gateway import OrthancGateway
from orthanc_plugin.http import Request, Response, json_response

GATEWAY = OrthancGateway()


def encode(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"dataclass": type(value).__name__, "fields": {k: encode(v) for k, v in vars(value).items()}}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    return value


def decode(value: Any) -> Any:
    return base64.b64decode(value["bytes"]) if isinstance(value, dict) else value


def call(request: Request) -> Response:
    wanted = json.loads(request.body)
    try:
        result = getattr(GATEWAY, wanted["method"])(*[decode(argument) for argument in wanted["arguments"]])
    except StorageError as error:
        return json_response(409, {"kind": type(error).__name__, "storage_error": str(error)})
    return json_response(200, {"result": encode(result)})


def answer(request: Request) -> Response:
    """Send back the answer that the body describes, to see what really leaves Orthanc."""
    wanted = json.loads(request.body)
    body = base64.b64decode(wanted["body"])
    return Response(wanted["status"], body, wanted["content_type"], wanted["headers"])


def fail(request: Request) -> Response:
    raise RuntimeError("as a test wished")


def allows(method: str, uri: str, peer: str, headers: Any) -> bool:
    seen = {"method": method, "uri": uri, "peer": peer, "host": headers.get("host", "")}
    orthanc_api.log_warning(f"FILTERED {json.dumps(seen)}")
    if uri == "/judge/broken":
        raise RuntimeError("as a test wished")
    return uri != "/judge/refused"


def user_of(headers: Any) -> str:
    return "somebody"


def on_change(change: str, level: str, resource: str) -> None:
    orthanc_api.log_warning(f"CHANGED {change} {level} {resource}")


orthanc_callbacks.serve_route("/gateway", call, user_of)
orthanc_callbacks.serve_route("/answer", answer, user_of)
orthanc_callbacks.serve_route("/fail", fail, user_of)
orthanc_callbacks.filter_requests(allows)
orthanc_callbacks.listen(on_change)
