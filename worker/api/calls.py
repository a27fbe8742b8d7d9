# SPDX-License-Identifier: Apache-2.0
"""Calls of the plugin's routes, each sent again within bounds where no answer came.

Every call that a worker makes may be repeated safely: a claim repeats its token, a heartbeat says the same
again, an artifact and a completion carry the same bytes. So a call whose answer was lost is sent again.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests

from worker.backoff import Backoff, Wait, uninterrupted
from worker.errors import BusyError, UnreachableError
from worker.settings import Credentials, Settings

from .transport import contract_document, make_session, refusal, unreachable

_SENT_AT_ONCE = 1 << 16
"""Bytes of a body that go out in one piece, for which there is as much time as for connecting. A larger one
is sent as a file is: in blocks, each of which has so much time."""


@dataclass(frozen=True)
class Retry:
    """How often a call is repeated.

    Attributes
    ----------
    attempts
        Tries in all.
    backoff
        Waits between them; the first repeat of a dropped connection does not wait at all.
    within_s
        No try begins later than so many seconds after the first one.
    """

    attempts: int = 4
    backoff: Backoff = field(default_factory=Backoff)
    within_s: float = float("inf")


ONCE = Retry(attempts=1)


class Calls:
    """Sends the calls of one user, for one thread.

    Parameters
    ----------
    settings
        Addresses and time-outs.
    credentials
        The user to act as.
    retry
        How often a call is repeated.
    wait
        Waits between repeats.
    clock
        A monotonic clock, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials | None,
        retry: Retry,
        *,
        wait: Wait = uninterrupted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._retry = retry
        self._session = make_session(credentials)
        self._wait = wait
        self._clock = clock

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send a call, and return the document that it is answered with."""
        return contract_document(self.send(method, path, **options), self._settings.api_url)

    def send(
        self,
        method: str,
        path: str,
        *,
        json_body: Mapping[str, Any] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        read_s: float | None = None,
        retry: Retry | None = None,
    ) -> requests.Response:
        """Send a call, again and again within bounds, and raise for everything that is not 2xx."""
        sent_headers = dict(headers or {})
        if json_body is not None:
            data = json.dumps(json_body, allow_nan=False).encode()
            sent_headers["Content-Type"] = "application/json"
        read_s = self._settings.read_timeout_s if read_s is None else read_s
        call = _Call(method, self._settings.api_url + path, data, sent_headers, dict(params or {}), read_s)
        return self._repeat(call, retry or self._retry)

    def _repeat(self, call: _Call, retry: Retry) -> requests.Response:
        failures, last_begin = 0, self._clock() + retry.within_s
        while True:
            try:
                return self._once(call)
            except (UnreachableError, BusyError) as error:
                failures += 1
                pause_s = _pause(error, failures, retry.backoff)
                is_last = failures >= retry.attempts or self._clock() + pause_s > last_begin
                if is_last or self._wait(pause_s):
                    raise

    def _once(self, call: _Call) -> requests.Response:
        try:
            answer = self._session.request(
                call.method,
                call.url,
                data=call.body,
                headers=call.headers,
                params=call.params,
                timeout=(self._settings.connect_timeout_s, call.read_s),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise unreachable(self._settings.api_url, error) from error
        if 200 <= answer.status_code < 300:
            return answer
        raise refusal(answer, self._settings.api_url, self._credentials)


@dataclass(frozen=True)
class _Call:
    method: str
    url: str
    data: bytes | None
    headers: dict[str, str]
    params: dict[str, str]
    read_s: float

    @property
    def body(self) -> bytes | io.BytesIO | None:
        if self.data is None or len(self.data) <= _SENT_AT_ONCE:
            return self.data
        return io.BytesIO(self.data)


def _pause(error: UnreachableError | BusyError, failures: int, backoff: Backoff) -> float:
    if isinstance(error, UnreachableError) and error.dropped and failures == 1:
        return 0.0
    after = error.retry_after_s if isinstance(error, BusyError) else None
    return backoff.delay(failures - 1, after or 0.0)
