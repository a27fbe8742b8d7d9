# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every route of docs/rest.md: those of people, of workers, and what everybody may ask."""

from __future__ import annotations

from orthanc_plugin import API_VERSION, __version__
from orthanc_plugin.http import Request, Response, json_response
from orthanc_plugin.service import listing
from orthanc_plugin.service.core import Core

from . import source
from .metrics import CONTENT_TYPE as METRICS_TYPE
from .metrics import queue_metrics, render
from .openapi import document
from .pages import ROOT_TWICE, first_page, from_root, from_root_twice, serve_page
from .person_routes import PersonRoutes
from .ranges import RangeServer
from .router import ROOT, Parts, Route
from .worker_routes import WorkerRoutes


class Routes:
    """Every route of the queue, on one core."""

    def __init__(self, core: Core, ranges: RangeServer) -> None:
        self._core = core
        self._people = PersonRoutes(core)
        self._workers = WorkerRoutes(core, ranges)

    def table(self) -> tuple[Route, ...]:
        """Return the routes."""
        return (
            *self._people.table(),
            *self._workers.table(),
            Route("GET", "/models", self.models),
            Route("GET", "/workers", self.workers),
            Route("GET", "/health", self.health),
            Route("GET", "/metrics", self.metrics),
            Route("GET", "/openapi.json", self.openapi),
            Route("GET", source.PATH, self.source),
            Route("GET", "/", self.root),
            Route("GET", ROOT_TWICE, self.root_twice),
            Route("GET", "/app", self.first_page),
            Route("GET", "/app/{path*}", self.page),
        )

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
                "workers_alive": core.workers.alive_count(),
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

    def root(self, request: Request, _parts: Parts) -> Response:
        """Lead a browser to the worklist."""
        return from_root(request.headers.get("accept", ""))

    def root_twice(self, _request: Request, _parts: Parts) -> Response:
        """Lead a browser that came from the root to the worklist."""
        return from_root_twice()

    def first_page(self, _request: Request, _parts: Parts) -> Response:
        """Lead to the worklist."""
        return first_page()

    def page(self, request: Request, parts: Parts) -> Response:
        """Return a file of the plugin's own pages."""
        return serve_page(parts["path"], request.headers.get("if-none-match", ""))
