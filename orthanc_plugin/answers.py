# SPDX-License-Identifier: AGPL-3.0-or-later
"""What many routes put into their answers: requests as they are now, and when to come again."""

from __future__ import annotations

from typing import Any

from . import views
from .service.core import Core
from .service.record import read_result
from .values import AnalysisRequest


class Answers:
    """Parts of answers, from what the queue knows."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def short(self, request: AnalysisRequest) -> dict[str, Any]:
        """Return a request as lists show it."""
        index = self._core.index
        return views.short_request(
            request,
            index.live(request.request_id),
            index.version(request.request_id),
            now=self._core.clock.now(),
            arriving=index.is_arriving(request.series),
        )

    def full(self, request: AnalysisRequest) -> dict[str, Any]:
        """Return a request with its history and result."""
        index = self._core.index
        return views.full_request(
            request,
            index.live(request.request_id),
            index.version(request.request_id),
            read_result(self._core, request),
            now=self._core.clock.now(),
            arriving=index.is_arriving(request.series),
        )

    def later(self) -> dict[str, str]:
        """Return the header that says when to come again."""
        return {"Retry-After": str(1 + round(2 * self._core.clock.jitter()))}
