# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of docs/rest.md: bodies checked, uses called, answers put together."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from . import API_VERSION, __version__, fields, source, values, views
from .bodies import (
    claim_of,
    heartbeat_of,
    older_of,
    older_outcome_of,
    outcome_of,
    proof_of,
    proof_of_headers,
    target_of,
    wait_of_query,
    wish_of,
)
from .http import Request, Response, json_response, parse_object
from .metrics import CONTENT_TYPE as METRICS_TYPE
from .metrics import queue_metrics, render
from .openapi import document
from .pages import first_page, serve_page
from .ranges import RangeServer
from .router import ROOT, Route
from .service import artifacts, decide, listing, tokenless
from .service.claim import Granted, claim
from .service.complete import complete
from .service.core import Core, require_open_known
from .service.estimate import estimated_wait
from .service.export import export_patches
from .service.record import read_result
from .service.report import Orders, confirm_cancel, hand_back, heartbeat
from .service.submit import (
    Submitted,
    skipped_member,
    submit,
    warnings_for,
)
from .values import AnalysisRequest, canonical, sha256_hex

_MAX_BODY = 64 * 1024
_MAX_COMPLETION = 2 * 1024 * 1024
_REPORTED = (values.PROCESSING, values.PENDING, values.CANCELLED)
_VERDICTS = ("agree", "disagree", "unusable")
_ANALYZE_MEMBERS = {
    "series",
    "study",
    "instance",
    "series_instance_uid",
    "study_instance_uid",
    "cohort",
    "model",
    "model_version",
    "parameters",
    "priority",
    "force",
}

Parts = Mapping[str, str]


class Routes:
    """Every route of the queue, on one core."""

    def __init__(self, core: Core, ranges: RangeServer) -> None:
        self._core = core
        self._ranges = ranges

    def table(self) -> tuple[Route, ...]:
        """Return the routes."""
        return (
            Route("POST", "/analyze", self.analyze),
            Route("GET", "/pending-requests", self.pending),
            Route("POST", "/claim", self.claim),
            Route("POST", "/update-status/{request_id}", self.update_status),
            Route("POST", "/complete-request/{request_id}", self.complete),
            Route("GET", "/requests", self.list_requests),
            Route("GET", "/requests/{request_id}", self.get_request),
            Route("PUT", "/requests/{request_id}/artifacts/{name}", self.put_artifact),
            Route("GET", "/requests/{request_id}/artifacts/{name}", self.get_artifact),
            Route("GET", "/requests/{request_id}/export/{form}", self.export),
            Route("POST", "/requests/{request_id}/cancel", self.cancel),
            Route("POST", "/requests/{request_id}/retry", self.retry),
            Route("POST", "/requests/{request_id}/withdraw", self.withdraw),
            Route("POST", "/requests/{request_id}/review", self.review),
            Route("GET", "/models", self.models),
            Route("GET", "/workers", self.workers),
            Route("POST", "/workers/{worker_id}/drain", self.drain),
            Route("POST", "/instances/{instance_id}/ranges", self.ranges),
            Route("GET", "/instances/{instance_id}/frames", self.frames),
            Route("GET", "/health", self.health),
            Route("GET", "/metrics", self.metrics),
            Route("GET", "/openapi.json", self.openapi),
            Route("GET", source.PATH, self.source),
            Route("GET", "/app", self.first_page),
            Route("GET", "/app/{path*}", self.page),
        )

    # People

    def analyze(self, request: Request, _parts: Parts) -> Response:
        """Submit a slide, or every slide of a study or a cohort."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=_MAX_BODY)
        fields.known_only(body, _ANALYZE_MEMBERS)
        target, wish = target_of(body), wish_of(body)
        done, skipped = submit(self._core, target, wish, request.user)
        first = done[0]
        answer: dict[str, Any] = {
            "success": True,
            "request_id": first.request.request_id,
            "created": first.created,
            "request": self._full(first.request),
            "warnings": warnings_for(self._core, first.request),
            # Of several, the last one tells when all have been begun.
            "estimated_wait_s": estimated_wait(self._core, done[-1].request),
        }
        if target.is_many:
            answer["summary"] = {
                "created": sum(item.created for item in done),
                "existing": sum(not item.created for item in done),
                "skipped": len(skipped),
            }
            answer["requests"] = [self._short(item.request) for item in done]
            answer["skipped"] = [skipped_member(item) for item in skipped]
        return json_response(_created_status(done), answer)

    def list_requests(self, request: Request, _parts: Parts) -> Response:
        """List requests, filtered and page by page."""
        require_open_known(self._core)
        wanted = listing.parse_filter(request.query)
        page = listing.list_requests(self._core, wanted)
        shape = self._full if wanted.full else self._short
        return json_response(
            200,
            {
                "success": True,
                "count": len(page.requests),
                "requests": [shape(item) for item in page.requests],
                "next": page.cursor,
            },
        )

    def get_request(self, request: Request, parts: Parts) -> Response:
        """Return one request, if wanted once it has changed."""
        require_open_known(self._core)
        waited = listing.wait_for_change(
            self._core, parts["request_id"], request.query.get("version"), wait_of_query(request)
        )
        found = listing.get_request(self._core, parts["request_id"])
        headers = {} if waited else self._later()
        return json_response(200, {"success": True, "request": self._full(found)}, headers)

    def get_artifact(self, request: Request, parts: Parts) -> Response:
        """Return a file of a result."""
        require_open_known(self._core)
        artifact, content = artifacts.get_artifact(self._core, parts["request_id"], parts["name"])
        tag = f'"{artifact.sha256}"'
        headers = {"ETag": tag, "X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(304, b"", artifact.content_type, headers)
        return Response(200, content, artifact.content_type, headers)

    def export(self, _request: Request, parts: Parts) -> Response:
        """Return every patch of a result as geojson, csv or h5."""
        require_open_known(self._core)
        file = export_patches(self._core, parts["request_id"], parts["form"])
        headers = {
            "Content-Disposition": f'attachment; filename="{file.name}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-cache",
        }
        return Response(200, file.content, file.content_type, headers)

    def cancel(self, request: Request, parts: Parts) -> Response:
        """Cancel a request."""
        parse_object(request, max_bytes=_MAX_BODY)
        return self._decided(decide.cancel(self._core, parts["request_id"], request.user))

    def retry(self, request: Request, parts: Parts) -> Response:
        """Queue a failed or cancelled request again."""
        parse_object(request, max_bytes=_MAX_BODY)
        return self._decided(decide.retry(self._core, parts["request_id"], request.user))

    def withdraw(self, request: Request, parts: Parts) -> Response:
        """Take a result back."""
        body = parse_object(request, max_bytes=_MAX_BODY)
        reason = fields.text(body, "reason", longest=500)
        return self._decided(decide.withdraw(self._core, parts["request_id"], request.user, reason))

    def review(self, request: Request, parts: Parts) -> Response:
        """Note a person's verdict on a result."""
        body = parse_object(request, max_bytes=_MAX_BODY)
        verdict = fields.text(body, "verdict")
        if verdict not in _VERDICTS:
            raise fields.bad_field("verdict", "agree, disagree or unusable")
        comment = fields.free_text(body, "comment")
        return self._decided(decide.review(self._core, parts["request_id"], request.user, verdict, comment))

    def _decided(self, request: AnalysisRequest) -> Response:
        return json_response(200, {"success": True, "request": self._full(request)})

    def drain(self, request: Request, parts: Parts) -> Response:
        """Let a worker finish what it has and take nothing more."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=_MAX_BODY)
        drain = fields.flag(body, "drain", default=True)
        decide.drain(self._core, parts["worker_id"], request.user, drain=drain)
        return json_response(200, {"success": True, "worker_id": parts["worker_id"], "drain": drain})

    # Workers

    def pending(self, request: Request, _parts: Parts) -> Response:
        """List what waits for a worker; may be held open until something does."""
        require_open_known(self._core)
        if self._is_worker(request):
            self._core.workers.polled(request.user)
        waited = listing.wait_for_pending(self._core, wait_of_query(request))
        found = [self._short(item) for item in listing.pending(self._core)]
        return json_response(
            200, {"success": True, "count": len(found), "requests": found}, {} if waited else self._later()
        )

    def claim(self, request: Request, _parts: Parts) -> Response:
        """Give a worker the next request under a lease."""
        require_open_known(self._core)
        ask = claim_of(parse_object(request, max_bytes=_MAX_BODY), request.user)
        given = claim(self._core, ask)
        if given is None:
            # Orthanc itself does not tell its time, and a worker that waits has time to compare clocks.
            date = formatdate(self._core.clock.now(), usegmt=True)
            drained = {"X-Pathology-Drain": "true"} if self._core.workers.drains(ask.worker_id) else {}
            return Response(204, headers={**self._later(), "Date": date, **drained})
        return json_response(200, self._given(given))

    def _given(self, given: Granted) -> dict[str, Any]:
        return {
            "success": True,
            "request": self._full(given.request),
            "lease": views.lease_member(self._core.settings, given.request),
            "instances": views.instance_members(given.instances),
            "retry_after_s": 1,
        }

    def update_status(self, request: Request, parts: Parts) -> Response:
        """Take a heartbeat, a lease handed back, or a confirmed cancel."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=_MAX_BODY)
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
        return json_response(200, {"success": True, "request": self._short(done)})

    def ranges(self, request: Request, parts: Parts) -> Response:
        """Return byte ranges of a stored DICOM file."""
        return self._ranges.serve(parts["instance_id"], request, volume_only=self._is_worker(request))

    def frames(self, request: Request, parts: Parts) -> Response:
        """Return where the frames of a stored DICOM file lie."""
        return self._ranges.serve_frames(parts["instance_id"], request, volume_only=self._is_worker(request))

    def _is_worker(self, request: Request) -> bool:
        return request.user in self._core.settings.workers

    # Everybody

    def models(self, _request: Request, _parts: Parts) -> Response:
        """List the models that living workers offer and the site permits."""
        return json_response(200, {"success": True, "models": listing.models(self._core)})

    def workers(self, _request: Request, _parts: Parts) -> Response:
        """List the workers heard of since the start, and those that are drained."""
        found = listing.workers(self._core)
        return json_response(200, {"success": True, "count": len(found), "workers": found})

    def health(self, _request: Request, _parts: Parts) -> Response:
        """Say whether the queue works."""
        core = self._core
        is_ready = core.ready.open_known.is_set()
        return json_response(
            200,
            {
                "success": True,
                "status": "ok" if is_ready else "starting",
                "complete": core.ready.all_known.is_set(),
                "api": API_VERSION,
                "version": __version__,
                "source": core.settings.source_url or ROOT + source.PATH,
                "orthanc": core.gateway.orthanc_version(),
                "requests": core.index.counts(),
                "waiting": {"claims": core.claims.waiting, "pages": core.pages.waiting},
                "workers_alive": len(core.workers.alive()),
            },
        )

    def metrics(self, _request: Request, _parts: Parts) -> Response:
        """Return the queue's numbers for Prometheus."""
        return Response(200, render(queue_metrics(self._core)).encode("utf-8"), METRICS_TYPE)

    def openapi(self, _request: Request, _parts: Parts) -> Response:
        """Return the OpenAPI document of these routes."""
        return json_response(200, document(self.table()))

    def source(self, _request: Request, _parts: Parts) -> Response:
        """Return the plugin's source as it runs."""
        return source.serve_source()

    def first_page(self, _request: Request, _parts: Parts) -> Response:
        """Lead to the worklist."""
        return first_page()

    def page(self, request: Request, parts: Parts) -> Response:
        """Return a file of the plugin's own pages."""
        return serve_page(parts["path"], request.headers.get("if-none-match", ""))

    # Shared

    def _short(self, request: AnalysisRequest) -> dict[str, Any]:
        index = self._core.index
        return views.short_request(
            request,
            index.live(request.request_id),
            index.version(request.request_id),
            now=self._core.clock.now(),
            arriving=index.is_arriving(request.series),
        )

    def _full(self, request: AnalysisRequest) -> dict[str, Any]:
        index = self._core.index
        return views.full_request(
            request,
            index.live(request.request_id),
            index.version(request.request_id),
            read_result(self._core, request),
            now=self._core.clock.now(),
            arriving=index.is_arriving(request.series),
        )

    def _later(self) -> dict[str, str]:
        return {"Retry-After": str(1 + round(2 * self._core.clock.jitter()))}


def _created_status(done: list[Submitted]) -> int:
    return 201 if any(item.created for item in done) else 200
