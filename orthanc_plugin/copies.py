# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's copies of open requests, for slides that may take their requests along."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping

from .clock import Clock
from .codec import DamagedError, NewerError, decode_archive, encode_archive
from .gateway import Gateway
from .values import AnalysisRequest

_GRACE_S = 60.0


class Copies:
    """Open requests as they were submitted, in one global property.

    Storing a slide's only file again makes Orthanc delete the series, with its requests, and create it anew.
    Memory writes them again, unless Orthanc was killed in between or had not read them yet: what was accepted
    is then known by its copy. One is kept before its request is written, and given up some time after it has
    ended.
    """

    def __init__(self, gateway: Gateway, number: int, clock: Clock, warn: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._number = number
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()
        self._held: Mapping[str, AnalysisRequest] | None = None
        self._since: dict[str, float] = {}

    def of_series(self) -> dict[str, tuple[AnalysisRequest, ...]]:
        """Return the copies by Orthanc id of the series.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return _by_series(self._copies().values())

    def keep(self, requests: Iterable[AnalysisRequest]) -> None:
        """Keep copies, durably and with one write, of requests that are about to be written.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            wanted = {request.request_id: request for request in requests}
            self._since.update(dict.fromkeys(wanted, self._clock.monotonic()))
            self._write({**wanted, **self._copies()})

    def drop(self, request_id: str) -> None:
        """Drop the copy of a request that was not written, or has ended, where there is one.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            self._since.pop(request_id, None)
            self._write({known: copy for known, copy in self._copies().items() if known != request_id})

    def give_up(self, ended: Callable[[str], bool]) -> None:
        """Drop the copies of what has `ended`, but for those that were made a moment ago.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            limit = self._clock.monotonic() - _GRACE_S
            left = {
                request_id: request
                for request_id, request in self._copies().items()
                if self._since.get(request_id, limit) > limit or not ended(request_id)
            }
            self._write(left)
            self._since = {known: since for known, since in self._since.items() if known in left}

    def _copies(self) -> Mapping[str, AnalysisRequest]:
        if self._held is None:
            self._held = {request.request_id: request for request in self._read()}
        return self._held

    def _read(self) -> list[AnalysisRequest]:
        text = self._gateway.get_global_property(self._number)
        try:
            of_series = json.loads(text or "{}").items()
            parts = [decode_archive(series_id, json.dumps(part).encode()) for series_id, part in of_series]
        except (ValueError, AttributeError, DamagedError, NewerError) as error:
            self._warn(f"Global property {self._number} cannot be read ({error}); its copies are dropped.")
            return []
        return [request for requests, _ in parts for request in requests]

    def _write(self, copies: Mapping[str, AnalysisRequest]) -> None:
        if copies == self._held:
            return
        parts = (
            f"{json.dumps(series_id)}:{encode_archive(requests).decode()}"
            for series_id, requests in _by_series(copies.values()).items()
        )
        self._held = None  # where this fails it is in doubt what is there, and read again
        self._gateway.set_global_property(self._number, "{" + ",".join(parts) + "}")
        self._held = copies


def _by_series(requests: Iterable[AnalysisRequest]) -> dict[str, tuple[AnalysisRequest, ...]]:
    found: dict[str, tuple[AnalysisRequest, ...]] = {}
    for request in requests:
        found[request.series] = (*found.get(request.series, ()), request)
    return found
