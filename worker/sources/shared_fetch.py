# SPDX-License-Identifier: Apache-2.0
"""Fetch things that several threads want at once exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class SharedFetch(Generic[Key]):
    """Knows what is on its way.

    Parameters
    ----------
    is_kept
        Tells whether a thing is here already.
    """

    def __init__(self, is_kept: Callable[[Key], bool]) -> None:
        self._is_kept = is_kept
        self._lock = threading.Lock()
        self._in_flight: dict[Key, threading.Event] = {}

    def fetch(self, wanted: Iterable[Key], fetch: Callable[[list[Key]], object]) -> None:
        """Fetch what is not here and not on its way, then wait for what is.

        Parameters
        ----------
        wanted
            Keys, in the order in which they are to be fetched.
        fetch
            Fetches keys and keeps what they stand for; not called where there is nothing to do. What another
            thread fails to fetch is missing afterwards: its own caller has the error.
        """
        missing = [key for key in wanted if not self._is_kept(key)]
        if not missing:
            return
        done = threading.Event()
        with self._lock:
            # Again: another thread may have brought something meanwhile.
            missing = [key for key in missing if not self._is_kept(key)]
            others = {self._in_flight[key] for key in missing if key in self._in_flight}
            own = [key for key in missing if key not in self._in_flight]
            self._in_flight.update(dict.fromkeys(own, done))
        try:
            if own:
                fetch(own)
        finally:
            with self._lock:
                for key in own:
                    del self._in_flight[key]
            done.set()
        for other in others:
            other.wait()
