# SPDX-License-Identifier: AGPL-3.0-or-later
"""The routes of people (docs/rest.md): to submit, to look, to decide."""

from __future__ import annotations

from typing import Any

from orthanc_plugin import fields
from orthanc_plugin.http import Request, Response, json_response, parse_object
from orthanc_plugin.presentation.list_filter import parse_filter
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.service import artifacts, decide, listing
from orthanc_plugin.service.core import Core, find, require_open_known
from orthanc_plugin.service.estimate import estimated_wait
from orthanc_plugin.service.export import export_patches
from orthanc_plugin.service.submit import Submitted, skipped_member, submit

from .answers import Answers
from .bodies import MAX_BODY, target_of, wait_of_query, wish_of
from .router import Parts, Route

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


class PersonRoutes:
    """What people ask, on one core."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._answers = Answers(core)

    def table(self) -> tuple[Route, ...]:
        """Return the routes."""
        return (
            Route("POST", "/analyze", self.analyze),
            Route("GET", "/requests", self.list_requests),
            Route("GET", "/requests/{request_id}", self.get_request),
            Route("GET", "/requests/{request_id}/artifacts/{name}", self.get_artifact),
            Route("GET", "/requests/{request_id}/export/{form}", self.export),
            Route("POST", "/requests/{request_id}/cancel", self.cancel),
            Route("POST", "/requests/{request_id}/retry", self.retry),
            Route("POST", "/requests/{request_id}/withdraw", self.withdraw),
            Route("POST", "/requests/{request_id}/review", self.review),
            Route("POST", "/workers/{worker_id}/drain", self.drain),
        )

    def analyze(self, request: Request, _parts: Parts) -> Response:
        """Submit a slide, or every slide of a study or a cohort."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=MAX_BODY)
        fields.known_only(body, _ANALYZE_MEMBERS)
        target, wish = target_of(body), wish_of(body)
        done, skipped = submit(self._core, target, wish, request.user)
        first = done[0]
        answer: dict[str, Any] = {
            "success": True,
            "request_id": first.request.request_id,
            "created": first.created,
            "request": self._answers.full(first.request),
            "warnings": [note.message for note in self._answers.notes(first.request)],
            # Of several, the last one tells when all have been begun.
            "estimated_wait_s": estimated_wait(self._core, done[-1].request),
        }
        if target.is_many:
            answer["summary"] = {
                "created": sum(item.created for item in done),
                "existing": sum(not item.created for item in done),
                "skipped": len(skipped),
            }
            answer["requests"] = self._answers.many(item.request for item in done)
            answer["skipped"] = [skipped_member(item) for item in skipped]
        return json_response(_created_status(done), answer)

    def list_requests(self, request: Request, _parts: Parts) -> Response:
        """List requests, filtered and page by page."""
        require_open_known(self._core)
        wanted = parse_filter(request.query)
        page = listing.list_requests(self._core, wanted)
        return json_response(
            200,
            {
                "success": True,
                "count": len(page.requests),
                "requests": self._answers.many(page.requests, full=wanted.full),
                "next": page.cursor,
            },
        )

    def get_request(self, request: Request, parts: Parts) -> Response:
        """Return one request, if wanted once it has changed."""
        require_open_known(self._core)
        waited = listing.wait_for_change(
            self._core, parts["request_id"], request.query.get("version"), wait_of_query(request)
        )
        found = find(self._core, parts["request_id"])
        headers = {} if waited else self._answers.later()
        return json_response(200, {"success": True, "request": self._answers.full(found)}, headers)

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
        parse_object(request, max_bytes=MAX_BODY)
        return self._decided(decide.cancel(self._core, parts["request_id"], request.user))

    def retry(self, request: Request, parts: Parts) -> Response:
        """Queue a failed or cancelled request again."""
        parse_object(request, max_bytes=MAX_BODY)
        return self._decided(decide.retry(self._core, parts["request_id"], request.user))

    def withdraw(self, request: Request, parts: Parts) -> Response:
        """Take a result back."""
        body = parse_object(request, max_bytes=MAX_BODY)
        reason = fields.text(body, "reason", longest=500)
        return self._decided(decide.withdraw(self._core, parts["request_id"], request.user, reason))

    def review(self, request: Request, parts: Parts) -> Response:
        """Note a person's verdict on a result."""
        body = parse_object(request, max_bytes=MAX_BODY)
        verdict = fields.text(body, "verdict")
        if verdict not in _VERDICTS:
            raise fields.bad_field("verdict", "agree, disagree or unusable")
        comment = fields.free_text(body, "comment")
        return self._decided(decide.review(self._core, parts["request_id"], request.user, verdict, comment))

    def _decided(self, request: AnalysisRequest) -> Response:
        return json_response(200, {"success": True, "request": self._answers.full(request)})

    def drain(self, request: Request, parts: Parts) -> Response:
        """Let a worker finish what it has and take nothing more."""
        require_open_known(self._core)
        body = parse_object(request, max_bytes=MAX_BODY)
        drain = fields.flag(body, "drain", default=True)
        decide.drain(self._core, parts["worker_id"], request.user, drain=drain)
        return json_response(200, {"success": True, "worker_id": parts["worker_id"], "drain": drain})


def _created_status(done: list[Submitted]) -> int:
    return 201 if any(item.created for item in done) else 200
