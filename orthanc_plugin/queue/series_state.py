# SPDX-License-Identifier: AGPL-3.0-or-later
"""All requests of one series, as one value: what a transition replaces, and one write stores."""

from __future__ import annotations

from dataclasses import dataclass

from .values import AnalysisRequest

SCHEMA = 1
"""The schema that this version writes."""


@dataclass(frozen=True)
class SeriesState:
    """Everything the plugin knows of one series.

    Attributes
    ----------
    revision
        Grows with every write, so that two values of one series are never equal.
    next_number
        The next number of an attachment or record; none is used twice, so that late bytes hit nothing.
    requests
        Open requests and the latest finished ones, oldest first.
    folded
        How many older ones lie in the archive attachment.
    schema
        The schema the value was written with; one newer than `SCHEMA` is read, never rewritten.
    """

    series_id: str
    next_number: int
    revision: int = 0
    requests: tuple[AnalysisRequest, ...] = ()
    folded: int = 0
    schema: int = SCHEMA

    def find(self, request_id: str) -> AnalysisRequest | None:
        """Return one of the requests, or None."""
        for request in self.requests:
            if request.request_id == request_id:
                return request
        return None
