# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's list of series with open requests: a start finds them without reading every series."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable

from .clock import Clock
from .errors import StorageError
from .gateway import Gateway

_GRACE_S = 60.0


class OpenSeries:
    """A superset of the series with open requests, in one global property.

    A series is listed before its first request is written, and taken off some time after its last has ended.
    """

    def __init__(self, gateway: Gateway, number: int, clock: Clock, warn: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._number = number
        self._clock = clock
        self._warn = warn
        self._lock = threading.Lock()
        self._listed: dict[str, float] = {}

    def read(self) -> tuple[str, ...]:
        """Return the listed series; an unreadable list is reported and empty (the full scan finds the rest).

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        text = self._gateway.get_global_property(self._number)
        try:
            listed = [] if text is None else json.loads(text)
        except ValueError:
            listed = None
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            self._warn(f"Global property {self._number} is damaged; all series are looked through instead.")
            listed = []
        with self._lock:
            for series_id in listed:
                self._listed.setdefault(series_id, self._clock.monotonic())
            return tuple(self._listed)

    def add(self, series_ids: Iterable[str]) -> None:
        """List series, durably and with one write, before requests are opened on them.

        Raises
        ------
        StorageError
            Where Orthanc cannot write.
        """
        with self._lock:
            added = dict.fromkeys(series_ids, self._clock.monotonic())
            new = added.keys() - self._listed.keys()
            self._listed.update(added)
            if not new:
                return
            try:
                self._write()
            except StorageError:
                for series_id in new:
                    del self._listed[series_id]
                raise

    def prune(self, open_series: Callable[[], set[str]]) -> None:
        """Take off what has no open request and was not listed a moment ago."""
        with self._lock:
            limit = self._clock.monotonic() - _GRACE_S
            still_open = open_series()
            ended = [
                series_id
                for series_id, since in self._listed.items()
                if since < limit and series_id not in still_open
            ]
            if not ended:
                return
            for series_id in ended:
                del self._listed[series_id]
            self._write()

    def _write(self) -> None:
        self._gateway.set_global_property(self._number, json.dumps(list(self._listed), separators=(",", ":")))
