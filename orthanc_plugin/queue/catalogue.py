# SPDX-License-Identifier: AGPL-3.0-or-later
"""All requests that are known: by id, by series and study, by model and state."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator

from . import values
from .places import END, START, Ordered, Place, place_of
from .values import AnalysisRequest

Kind = tuple[str, str]
"""Name of the model that runs or ran (`AnalysisRequest.bound_model`), and state."""


def kind_of(request: AnalysisRequest) -> Kind:
    """Return the model and the state that a request is counted under."""
    return (request.bound_model.name, request.status)


class Catalogue:
    """What there is, ordered by creation; whoever uses it holds the index' lock."""

    def __init__(self) -> None:
        self._requests: dict[str, AnalysisRequest] = {}
        self._kinds: dict[Kind, Ordered] = {}
        self._of_series: dict[str, tuple[str, ...]] = {}
        self._of_study: dict[str, set[str]] = {}

    def __getitem__(self, request_id: str) -> AnalysisRequest:
        return self._requests[request_id]

    def get(self, request_id: str) -> AnalysisRequest | None:
        """Return a request, or None."""
        return self._requests.get(request_id)

    def put(self, request: AnalysisRequest) -> AnalysisRequest | None:
        """Take a request in the place of its former self, which is returned, or None where it is new."""
        request_id = request.request_id
        known = self._requests.get(request_id)
        if known is None:
            self._of_series[request.series] = (*self._of_series.get(request.series, ()), request_id)
            self._of_study.setdefault(request.study, set()).add(request.series)
        kind = kind_of(request)
        before = None if known is None else kind_of(known)
        if known is not None and before != kind:
            self._leave_kind(known)
        if before != kind:
            self._kinds.setdefault(kind, Ordered()).add(place_of(request))
        self._requests[request_id] = request
        return known

    def drop(self, request_id: str) -> AnalysisRequest:
        """Forget a request, and return it."""
        request = self._requests.pop(request_id)
        self._leave_series(request)
        self._leave_kind(request)
        return request

    def _leave_kind(self, request: AnalysisRequest) -> None:
        kind = kind_of(request)
        held = self._kinds[kind]
        held.discard(place_of(request))
        if not held:
            del self._kinds[kind]

    def _leave_series(self, request: AnalysisRequest) -> None:
        left = tuple(other for other in self._of_series[request.series] if other != request.request_id)
        if left:
            self._of_series[request.series] = left
            return
        del self._of_series[request.series]
        of_study = self._of_study.get(request.study, set())
        of_study.discard(request.series)
        if not of_study:
            self._of_study.pop(request.study, None)

    def of_series(self, series_id: str) -> list[AnalysisRequest]:
        """Return the requests of a series, as they came to be known."""
        return [self._requests[request_id] for request_id in self._of_series.get(series_id, ())]

    def ordered(
        self,
        *,
        after: Place = START,
        before: Place = END,
        newest_first: bool = False,
        source: str | None = None,
        holds: Callable[[Kind], bool] = lambda _: True,
    ) -> Iterator[AnalysisRequest]:
        """Yield requests, ordered by creation and id.

        What is not wanted is not looked at, however many there are.

        Parameters
        ----------
        after, before
            Only those between these places.
        newest_first
            Turn the order round.
        source
            Only those of the series or study with this Orthanc id, whatever `holds` says.
        holds
            Tells of a model and a state whether the requests of that kind are wanted.
        """
        lists: Iterable[Ordered]
        if source is None:
            lists = (held for kind, held in self._kinds.items() if holds(kind))
        else:
            lists = [self._places(source)]
        places = (held.between(after, before, newest_first=newest_first) for held in lists)
        for place in heapq.merge(*places, reverse=newest_first):
            yield self._requests[place[1]]

    def _places(self, source: str) -> Ordered:
        of_source = (
            request for series in self._of_study.get(source, {source}) for request in self.of_series(series)
        )
        return Ordered(sorted(place_of(request) for request in of_source))

    def with_status(self, *statuses: str) -> Iterator[AnalysisRequest]:
        """Yield all requests in these states."""
        for (_, status), held in self._kinds.items():
            if status in statuses:
                for _, request_id in held:
                    yield self._requests[request_id]

    def kinds(self) -> dict[Kind, int]:
        """Return how many requests of each model are in each state."""
        return {kind: len(held) for kind, held in self._kinds.items()}

    def oldest_open(self) -> dict[Kind, float]:
        """Return when the oldest open request of each model in each state was created."""
        return {kind: held[0][0] for kind, held in self._kinds.items() if kind[1] in values.OPEN}
