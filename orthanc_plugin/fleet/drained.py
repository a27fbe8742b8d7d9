# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's list of workers that a person lets take nothing more: a restart does not end that."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orthanc_plugin.errors import ApiError
from orthanc_plugin.gateway import Gateway
from orthanc_plugin.storage.global_property import Form, GlobalProperty, compact, texts_of

_MOST = 500
_FORM: Form[frozenset[str]] = Form(
    encode=lambda names: compact(sorted(names)),
    decode=lambda value: frozenset(texts_of(value)),
    empty=frozenset(),
    loss="Drain the workers again that should be.",
)


class Drained:
    """Names of workers in one global property."""

    def __init__(self, gateway: Gateway, number: int, warn: Callable[[str], None]) -> None:
        self._property = GlobalProperty(gateway, number, _FORM, warn)
        self._lock = threading.Lock()

    def names(self) -> frozenset[str]:
        """Return the names.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        with self._lock:
            return self._property.get()

    def put(self, worker_id: str, *, drain: bool) -> None:
        """List a worker, durably, or take it off.

        Raises
        ------
        ApiError
            409 where too many are listed.
        StorageError
            Where Orthanc cannot read or write.
        """
        with self._lock:
            before = self._property.get()
            names = before | {worker_id} if drain else before - {worker_id}
            if len(names) > _MOST:
                raise ApiError(
                    409,
                    "too_many_drained",
                    f"{_MOST} workers are drained already. End the drain of some that are gone for good: "
                    "GET /pathology/workers lists them.",
                )
            self._property.put(names)
