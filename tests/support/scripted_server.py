# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the contract on a server that misbehaves on purpose, as scripted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

from tests.support.loopback_server import LoopbackServer
from tests.support.wait import wait_until


class Fault(Enum):
    """What happens to one exchange."""

    DROP_BEFORE = "the connection is closed before the request is processed"
    DROP_AFTER = "the request is processed and its answer is lost"
    STATUS_500 = "a proxy's error page"
    BUSY = "503 with Retry-After"


@dataclass(frozen=True)
class Page:
    """What something else than the plugin answers."""

    status: int
    body: bytes = b"<html>Please sign in</html>"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/html"})


FOREIGN_PAGES = {
    "a sign-in page": Page(200),
    "JSON of something else": Page(200, b'{"status": "ok"}', {"Content-Type": "application/json"}),
    "a redirect": Page(302, b"", {"Location": "https://login.test/?state=secret"}),
    "a proxy's 403": Page(403),
    "a proxy's 404": Page(404),
    "an Orthanc without the plugin": Page(404, b'{"HttpStatus": 404, "OrthancStatus": 17}', {}),
    "a proxy that wants a user": Page(407, b"", {}),
    "a proxy's 410": Page(410),
    "a load balancer without a server": Page(502),
}
"""What may stand in the plugin's place for a while."""


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


@dataclass
class ScriptedRequest:
    """One analysis request on the scripted server."""

    request_id: str
    status: str = "pending"
    fence: int = 0
    token: str | None = None
    completion: bytes | None = None
    document: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "request_id": self.request_id,
            "status": self.status,
            "series": "orthanc-series",
            "series_instance_uid": "1.2.3",
            "study_instance_uid": "1.2",
            "model": "test-model",
            "parameters": {},
            "fingerprint": "f" * 64,
            "created": "2026-11-22T16:54:03.000Z",
            "updated": "2026-11-22T16:54:03.500Z",
            "fence": self.fence,
            "version": f"boot-{self.fence}-{self.status}",
            **self.document,
        }


Answer = tuple[int, dict[str, Any] | None, dict[str, str]]


class ScriptedServer(LoopbackServer):
    """A server on a free loopback port, started on entry.

    Attributes
    ----------
    calls
        Everything that arrived, in order.
    requests
        The analysis requests by id.
    heartbeat_s
        The interval that leases dictate.
    accepts_results
        False makes every completion a 503.
    retry_after
        Seconds that a claim without a request is answered with.
    drained
        Whether claims are answered as those of a worker that a person has drained.
    leases_ahead
        Whether a claim with "prefetch" is understood, as by current servers.
    heartbeat_answer
        Makes the answer to a heartbeat; by default "go on".
    stand_ins
        What answers in the server's place on a route (a part of its path).
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.requests: dict[str, ScriptedRequest] = {}
        self.heartbeat_s = 0.05
        self.heartbeat_answer: Callable[[ScriptedRequest], Answer] | None = None
        self.accepts_results = True
        self.retry_after = "0"
        self.drained = False
        self.shares_name = False
        self.leases_ahead = True
        self.stand_ins: dict[str, Page] = {}
        self._faults: dict[str, deque[Fault]] = {}
        self._changed = threading.Condition()
        self._ended_polls: set[str] = set()
        super().__init__(type("Handler", (_Handler,), {"scripted": self}))

    def add_request(self, request_id: str = "a" * 32, **document: Any) -> ScriptedRequest:
        """Put a pending request into the queue."""
        with self._changed:
            request = ScriptedRequest(request_id, document=document)
            self.requests[request_id] = request
            self._changed.notify_all()
            return request

    def misbehave(self, route: str, *faults: Fault) -> None:
        """Let the next exchanges on a route (a part of its path) go wrong, one fault each."""
        self._faults.setdefault(route, deque()).extend(faults)

    def calls_to(self, route: str) -> list[Call]:
        """Return what arrived on a route (a part of its path)."""
        return [call for call in list(self.calls) if route in call.path]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until a condition holds; fail where it does not in time."""
        wait_until(condition, seconds, lambda: f"not in {seconds} s; calls: {[c.path for c in self.calls]}")

    def take_over(self, request_id: str) -> None:
        """Give a request to another worker, as after a lease that expired."""
        with self._changed:
            request = self.requests[request_id]
            request.fence += 1
            request.token = "another worker's"

    def answer(self, call: Call) -> Answer:
        """Process a call."""
        path = call.path.partition("?")[0].rstrip("/")
        parts = path.removeprefix("/pathology").strip("/").split("/")
        if parts == ["claim"]:
            return self._claim(call.json)
        if parts[0] == "update-status":
            return self._with_lease(parts[1], call.json, self._update)
        if parts[0] == "complete-request":
            return self._complete(parts[1], call)
        if parts[0] == "requests" and call.method == "PUT":
            return self._put(parts[1], parts[3], call)
        if parts[0] == "requests" and len(parts) == 2:
            return 200, {"success": True, "request": self.requests[parts[1]].described()}, {}
        return _error(404, "unknown_route")

    def _claim(self, body: dict[str, Any]) -> Answer:
        if body.get("leaving"):
            return 204, None, {}
        ahead = self.leases_ahead and body.get("prefetch") is True
        token, deadline = body["token"], time.monotonic() + float(body["wait"])
        if self.drained:
            return 204, None, {"Retry-After": self.retry_after, "X-Pathology-Drain": "true"}
        with self._changed:
            for request in self.requests.values():
                if request.token == token and request.status == "processing":
                    return self._granted(request, ahead=ahead)
            if body["wait"] == 0:
                self._ended_polls.add(token)
                self._changed.notify_all()
            while True:
                for request in self.requests.values():
                    if request.status == "pending":
                        request.status, request.token = "processing", token
                        request.fence += 1
                        return self._granted(request, ahead=ahead)
                left = deadline - time.monotonic()
                if left <= 0 or token in self._ended_polls:
                    shared = {"X-Pathology-Shared-Name": "true"} if self.shares_name else {}
                    return 204, None, {"Retry-After": self.retry_after, **shared}
                self._changed.wait(left)

    def _granted(self, request: ScriptedRequest, *, ahead: bool) -> Answer:
        lease = {"fence": request.fence, "duration_s": 60, "heartbeat_s": self.heartbeat_s, "confirm_s": 15}
        if self.leases_ahead:
            lease["prefetch"] = ahead
        instance = {
            "id": "i",
            "sop_instance_uid": "1.2.3.4",
            "uuid": "u",
            "size": 1,
            "image_type": ["VOLUME"],
        }
        document = {"success": True, "request": request.described(), "lease": lease, "instances": [instance]}
        return 200, document, {}

    def _with_lease(
        self, request_id: str, body: dict[str, Any], then: Callable[[ScriptedRequest, dict[str, Any]], Answer]
    ) -> Answer:
        request = self.requests.get(request_id)
        if request is None:
            return _error(404, "unknown_request")
        if (body.get("token"), body.get("fence")) != (request.token, request.fence):
            return _error(409, "lease_lost")
        return then(request, body)

    def _update(self, request: ScriptedRequest, body: dict[str, Any]) -> Answer:
        with self._changed:
            if body["status"] != "processing":
                request.status, request.token = body["status"], None
                return 200, {"success": True}, {}
        if self.heartbeat_answer is not None:
            return self.heartbeat_answer(request)
        return 200, {"success": True, "cancel": False, "drain": False}, {}

    def _put(self, request_id: str, name: str, call: Call) -> Answer:
        lease = {"token": call.headers["x-pathology-token"], "fence": int(call.headers["x-pathology-fence"])}

        def store(request: ScriptedRequest, _: dict[str, Any]) -> Answer:
            request.artifacts[name] = call.body
            digest = hashlib.sha256(call.body).hexdigest()
            artifact = {"name": name, "size": len(call.body), "sha256": digest}
            return 200, {"success": True, "artifact": artifact}, {}

        return self._with_lease(request_id, lease, store)

    def _complete(self, request_id: str, call: Call) -> Answer:
        if not self.accepts_results:
            return _error(503, "storage_unavailable", {"Retry-After": "0"})

        def end(request: ScriptedRequest, body: dict[str, Any]) -> Answer:
            if request.completion not in {None, call.body}:
                return _error(409, "already_completed")
            request.completion = call.body
            request.status = "completed" if "result" in body else "failed"
            request.document = {**request.document, **{k: body[k] for k in ("result", "error") if k in body}}
            return 200, {"success": True, "request": request.described()}, {}

        return self._with_lease(request_id, call.json, end)

    def stand_in(self, path: str) -> Page | None:
        """Return what answers a path in the server's place, if anything does."""
        return next((page for route, page in self.stand_ins.items() if route in path), None)

    def next_fault(self, path: str) -> Fault | None:
        """Take the fault that is scripted next for a path, if any."""
        for route, faults in self._faults.items():
            if route in path and faults:
                return faults.popleft()
        return None


class _Handler(BaseHTTPRequestHandler):
    """Hands each exchange to the scripted server, unless a fault comes first."""

    protocol_version = "HTTP/1.1"
    scripted: ClassVar[ScriptedServer]

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, body, headers)
        self.scripted.calls.append(call)
        page = self.scripted.stand_in(self.path)
        fault = self.scripted.next_fault(self.path)
        if page is not None:
            self._send(page.status, page.body, page.headers)
        elif fault is Fault.DROP_BEFORE:
            self._drop()
        elif fault is Fault.STATUS_500:
            self._send(500, b"<html>Internal Server Error</html>", {"Content-Type": "text/html"})
        elif fault is Fault.BUSY:
            self._answer(_error(503, "too_busy", {"Retry-After": "0"}))
        elif fault is Fault.DROP_AFTER:
            self.scripted.answer(call)
            self._drop()
        else:
            self._answer(self.scripted.answer(call))

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the names that http.server calls

    def _answer(self, answer: Answer) -> None:
        status, document, headers = answer
        data = b"" if document is None else json.dumps(document).encode()
        self._send(status, data, {"Content-Type": "application/json", **headers})

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def handle(self) -> None:
        # The worker goes away in the middle, which the tests do on purpose.
        with contextlib.suppress(ConnectionError, ValueError):
            super().handle()


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> Answer:
    return status, {"success": False, "code": code, "error": f"Scripted: {code}."}, headers or {}
