# SPDX-License-Identifier: Apache-2.0
"""Bodies of answers in time: what comes too slowly is given up, however regularly its bytes drip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

LEAST_RATE = 10_000
"""Bytes a second that an answer may come at where it is too large for the time that a small one has: a line
that gives less gives no slide in a day."""


class TimelyAdapter(HTTPAdapter):
    """Connections whose answers end in time.

    The time-out of requests is one of silence: a byte before each of its ends holds a call for ever.
    """

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - the signature of the class above
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send, and bound the time of the answer's body by the call's time-out for reading."""
        answer = super().send(
            request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies
        )
        patience_s = timeout[1] if isinstance(timeout, tuple) else timeout
        if patience_s is not None:
            answer.raw = TimelyBody(answer.raw, patience_s)
        return answer


class TimelyBody:
    """The body of an answer; all but reading it in pieces, as requests does, is the inner one's.

    Parameters
    ----------
    inner
        The body as urllib3 gives it.
    patience_s
        Seconds that the body may take, and a second more for each `LEAST_RATE` bytes that have come.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(self, inner: Any, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner = inner
        self._patience_s = patience_s
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def stream(self, amt: int, decode_content: bool | None = None) -> Iterator[bytes]:  # noqa: FBT001
        """Yield the body as it comes, in pieces of `amt` bytes at most.

        Raises
        ------
        requests.exceptions.ReadTimeout
            If it comes too slowly.
        """
        begun, come = self._clock(), 0
        while piece := self._inner.read1(amt, decode_content=decode_content):
            come += len(piece)
            if self._clock() - begun > self._patience_s + come / LEAST_RATE:
                self._inner.close()
                raise requests.exceptions.ReadTimeout("The answer comes too slowly.")
            yield piece
