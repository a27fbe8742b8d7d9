# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's list of series with open requests: a start finds them without reading every series."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from orthanc_plugin.clock import Clock
from orthanc_plugin.gateway import Gateway

from .global_property import Form, GlobalProperty, compact, texts_of

_GRACE_S = 60.0
_FORM: Form[Mapping[str, None]] = Form(
    encode=lambda listed: compact(list(listed)),
    decode=lambda value: dict.fromkeys(texts_of(value)),
    empty={},
    loss="All series are looked through instead.",
)


class OpenSeries:
    """A superset of the series with open requests, in one global property.

    A series is listed before its first request is written, and taken off some time after its last has ended.
    """

    def __init__(self, gateway: Gateway, number: int, clock: Clock, warn: Callable[[str], None]) -> None:
        self._property = GlobalProperty(gateway, number, _FORM, warn)
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}

    def read(self) -> tuple[str, ...]:
        """Return the listed series; where the list is unreadable, the full scan finds the rest.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return tuple(self._property.get())

    def add(self, series_ids: Iterable[str]) -> None:
        """List series, durably and with one write, before requests are opened on them.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            added = dict.fromkeys(series_ids, self._clock.monotonic())
            self._since.update(added)
            listed = self._property.get()
            if not added.keys() <= listed.keys():
                self._property.put({**listed, **dict.fromkeys(added)})

    def prune(self, open_series: Callable[[], set[str]]) -> None:
        """Take off what has no open request and was not listed a moment ago.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            limit = self._clock.monotonic() - _GRACE_S
            recent = {series_id for series_id, since in self._since.items() if since >= limit}
            kept = recent | open_series()
            self._property.put({listed: None for listed in self._property.get() if listed in kept})
            self._since = {series_id: self._since[series_id] for series_id in recent}
