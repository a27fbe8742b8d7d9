# SPDX-License-Identifier: AGPL-3.0-or-later
"""What many routes put into their answers: requests as they are now, and when to come again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orthanc_plugin.presentation import views
from orthanc_plugin.presentation.notes import Note, Offers, note_on_setback, notes_on, offers_of
from orthanc_plugin.queue import values
from orthanc_plugin.queue.values import AnalysisRequest
from orthanc_plugin.service.core import Core
from orthanc_plugin.service.record import read_result


class Answers:
    """Parts of answers, from what the queue knows."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def short(self, request: AnalysisRequest, offers: Offers | None = None) -> dict[str, Any]:
        """Return a request as lists show it; `offers` where they were asked for already."""
        index = self._core.index
        return views.short_request(
            request,
            index.live(request.request_id),
            index.version(request.request_id),
            now=self._core.clock.now(),
            arriving=index.is_arriving(request.series),
            notes=self.notes(request, offers),
        )

    def full(self, request: AnalysisRequest, offers: Offers | None = None) -> dict[str, Any]:
        """Return a request with its history and result."""
        result = read_result(self._core, request)
        return views.full_request(request, self.short(request, offers), result)

    def many(self, requests: Iterable[AnalysisRequest], *, full: bool = False) -> list[dict[str, Any]]:
        """Return requests, having asked only once what is offered to them."""
        shape, offers = self.full if full else self.short, self._offers()
        return [shape(request, offers) for request in requests]

    def notes(self, request: AnalysisRequest, offers: Offers | None = None) -> tuple[Note, ...]:
        """Return why a request waits."""
        if request.status != values.PENDING:
            return ()
        setback = self._core.setbacks.of(request.request_id)
        notes = notes_on(request, self._offers() if offers is None else offers)
        return notes if setback is None else (note_on_setback(setback), *notes)

    def _offers(self) -> Offers:
        return offers_of(self._core.workers, self._core.settings)

    def later(self) -> dict[str, str]:
        """Return the header that says when to come again."""
        return {"Retry-After": str(1 + round(2 * self._core.clock.jitter()))}
