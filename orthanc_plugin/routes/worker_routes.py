# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of workers (docs/rest.md): claims, heartbeats, results, and a slide's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from orthanc_plugin import fields
from orthanc_plugin.http import Request, Response, json_response, parse_object
from orthanc_plugin.presentation import views
from orthanc_plugin.queue import values
from orthanc_plugin.queue.values import canonical, sha256_hex
from orthanc_plugin.service import artifacts, listing, tokenless
from orthanc_plugin.service.claim import Granted, claim
from orthanc_plugin.service.complete import complete
from orthanc_plugin.service.core import Core, require_open_known
from orthanc_plugin.service.report import Orders, confirm_cancel, hand_back, heartbeat

from .answers import Answers
from .bodies import (
    MAX_BODY,
    claim_of,
    heartbeat_of,
    older_of,
    older_outcome_of,
    outcome_of,
    proof_of,
    proof_of_headers,
    wait_of_query,
)
from .ranges import RangeServer
from .router import Parts, Route

_MAX_COMPLETION = 2 * 1024 * 1024
_REPORTED = (values.PROCESSING, values.PENDING, values.CANCELLED)


class WorkerRoutes:
    """What workers ask, on one core."""

    def __init__(self, core: Core, ranges: RangeServer) -> None:
        self._core = core
        self._answers = Answers(core)
        self._ranges = ranges

    def table(self) -> tuple[Route, ...]:
        """Return the routes."""
        return (
            Route("GET", "/pending-requests", self.pending),
            Route("POST", "/claim", self.claim),
            Route("POST", "/update-status/{request_id}", self.update_status),
            Route("POST", "/complete-request/{request_id}", self.complete),
            Route("PUT", "/requests/{request_id}/artifacts/{name}", self.put_artifact),
            Route("POST", "/instances/{instance_id}/ranges", self.ranges),
            Route("GET", "/instances/{instance_id}/frames", self.frames),
        )

    def pending(self, request: Request, _parts: Parts) -> Response:
        """List what waits for a worker; may be held open until something does."""
        require_open_known(self._core)
        if self._is_worker(request):
            self._core.workers.polled(request.user)
        waited = listing.wait_for_pending(self._core, wait_of_query(request))
        found = self._answers.many(listing.pending(self._core))
        return json_response(
            200,
            {"success": True, "count": len(found), "requests": found},
            {} if waited else self._answers.later(),
        )

    def claim(self, request: Request, _parts: Parts) -> Response:
        """Give a worker the next request under a lease."""
        require_open_known(self._core)
        ask = claim_of(parse_object(request, max_bytes=MAX_BODY), request.user)
        given = claim(self._core, ask)
        if given is None:
            # Orthanc itself does not tell its time, and a worker that waits has time to compare clocks.
            date = formatdate(self._core.clock.now(), usegmt=True)
            return Response(204, headers={**self._answers.later(), "Date": date, **self._told(ask.worker_id)})
        return json_response(200, self._given(given))

    def _told(self, worker_id: str) -> dict[str, str]:
        """Return the headers by which a worker learns how it stands."""
        workers = self._core.workers
        drained = {"X-Pathology-Drain": "true"} if workers.drains(worker_id) else {}
        shared = {"X-Pathology-Shared-Name": "true"} if workers.shares_name(worker_id) else {}
        return {**drained, **shared}

    def _given(self, given: Granted) -> dict[str, Any]:
        return {
            "success": True,
            "request": self._answers.full(given.request),
            "lease": views.lease_member(self._core.settings, given.request),
            "instances": views.instance_members(given.instances),
            "retry_after_s": 1,
        }

    def update_status(self, request: Request, parts: Parts) -> Response:
        """Take a heartbeat, a lease handed back, or a confirmed cancel."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=MAX_BODY)
        orders = self._reported(parts["request_id"], body, request.user)
        return json_response(
            200,
            {
                "success": True,
                "status": orders.request.status,
                "cancel": orders.cancel,
                "drain": orders.drain,
                "lease": views.lease_member(self._core.settings, orders.request),
            },
        )

    def _reported(self, request_id: str, body: Mapping[str, Any], user: str) -> Orders:
        status = body.get("status", values.PROCESSING)
        if status not in _REPORTED:
            raise fields.bad_field("status", "processing, pending (hands the lease back) or cancelled")
        if "token" not in body:
            tokenless.require_allowed(self._core)
            return tokenless.report(self._core, request_id, older_of(body, user), status, heartbeat_of(body))
        proof = proof_of(body)
        if status == values.PROCESSING:
            return heartbeat(self._core, request_id, proof, heartbeat_of(body))
        if status == values.PENDING:
            return hand_back(self._core, request_id, proof)
        return confirm_cancel(self._core, request_id, proof)

    def put_artifact(self, request: Request, parts: Parts) -> Response:
        """Keep a file of a result."""
        require_open_known(self._core)
        artifact = artifacts.put_artifact(
            self._core,
            parts["request_id"],
            parts["name"],
            request.headers.get("content-type", ""),
            request.body,
            proof_of_headers(request.headers),
        )
        return json_response(200, {"success": True, "artifact": views.artifact_member(artifact)})

    def complete(self, request: Request, parts: Parts) -> Response:
        """Take a result, or the reason why there is none."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=_MAX_COMPLETION)
        digest = sha256_hex(canonical(body).encode("utf-8"))
        request_id = parts["request_id"]
        if "token" not in body:
            tokenless.require_allowed(self._core)
            who = older_of(body, request.user)
            done = tokenless.deliver(self._core, request_id, who, digest, older_outcome_of(body))
        else:
            done = complete(self._core, request_id, proof_of(body), digest, outcome_of(body))
        return json_response(200, {"success": True, "request": self._answers.short(done)})

    def ranges(self, request: Request, parts: Parts) -> Response:
        """Return byte ranges of a stored DICOM file."""
        return self._ranges.serve(parts["instance_id"], request, volume_only=self._is_worker(request))

    def frames(self, request: Request, parts: Parts) -> Response:
        """Return where the frames of a stored DICOM file lie."""
        return self._ranges.serve_frames(parts["instance_id"], request, volume_only=self._is_worker(request))

    def _is_worker(self, request: Request) -> bool:
        return request.user in self._core.settings.workers
