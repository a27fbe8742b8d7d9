# SPDX-License-Identifier: AGPL-3.0-or-later
"""The database's list of workers that a person lets take nothing more: a restart does not end that."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

from .errors import ApiError
from .gateway import Gateway

_MOST = 500


class Drained:
    """Names of workers in one global property; written before they count."""

    def __init__(self, gateway: Gateway, number: int, warn: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._number = number
        self._warn = warn
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._names

    def read(self) -> None:
        """Read the names; an unreadable list is reported and empty.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        text = self._gateway.get_global_property(self._number)
        try:
            names = json.loads(text) if text else []
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._warn(f"Global property {self._number} is damaged; drain the workers again that should be.")
            names = []
        with self._lock:
            self._names = frozenset(names)

    def put(self, worker_id: str, *, drain: bool) -> None:
        """List a worker, durably, or take it off.

        Raises
        ------
        ApiError
            409 where too many are listed.
        StorageError
            Where Orthanc cannot write.
        """
        with self._lock:
            names = self._names | {worker_id} if drain else self._names - {worker_id}
            if names == self._names:
                return
            if len(names) > _MOST:
                raise ApiError(
                    409,
                    "wrong_state",
                    f"{_MOST} workers are drained already; end that of some which are gone.",
                )
            self._gateway.set_global_property(self._number, json.dumps(sorted(names)))
            self._names = names
