# SPDX-License-Identifier: AGPL-3.0-or-later
"""Requests that Orthanc's own failures have kept from being given to a worker, and how long each rests."""

from __future__ import annotations

import threading
from dataclasses import dataclass

_FIRST_REST_S = 2.0
_LONGEST_REST_S = 60.0
_MOST_KEPT = 10_000
"""4 MB. One that is forgotten while its slide is still lost counts as a failure of Orthanc's anew."""


@dataclass(frozen=True)
class _Setback:
    sentence: str
    rest_s: float


class Setbacks:
    """In memory alone, by request: what failed the last time, until the request is given.

    One slide whose file is lost must not cost a claim each two seconds: the worker takes the answer for a
    server in trouble and comes ever more rarely, and then finds the same request first again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, _Setback] = {}

    def note(self, request_id: str, sentence: str) -> tuple[float, bool]:
        """Note a failure; return how many seconds the request should rest, and whether it is the first."""
        with self._lock:
            before = self._held.pop(request_id, None)
            rest_s = _FIRST_REST_S if before is None else min(2 * before.rest_s, _LONGEST_REST_S)
            self._held[request_id] = _Setback(sentence, rest_s)
            while len(self._held) > _MOST_KEPT:
                del self._held[next(iter(self._held))]
        return rest_s, before is None

    def clear(self, request_id: str) -> None:
        """Forget what kept a request back, of which Orthanc has failed at nothing this time."""
        with self._lock:
            self._held.pop(request_id, None)

    def of(self, request_id: str) -> str | None:
        """Return what failed when a request was last to be given; None where nothing did since."""
        with self._lock:
            setback = self._held.get(request_id)
        return None if setback is None else setback.sentence
