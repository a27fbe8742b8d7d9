# SPDX-License-Identifier: Apache-2.0
"""The whole way once, for the doctor: a tiny slide is stored, submitted, analysed, and taken away again."""

from __future__ import annotations

import time
from collections.abc import Callable

import requests

from worker.api.client import PluginClient
from worker.api.transport import make_session, refusal, unreachable
from worker.errors import ServerError, SubmitError, WorkerError
from worker.person.following import follow
from worker.settings import Settings
from worker.stages import Position

from .probe_slide import make_probe_slide

_TIMEOUT_S = (5.0, 60.0)


class _Silent:
    """Shows no progress."""

    def show(self, position: Position) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to close."""


def round_trip(settings: Settings, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> str:
    """Send a drawn slide through Orthanc, a worker and back; return a sentence on how it went.

    Acts as the person. Whatever worker is alive takes it: this process does not.

    Parameters
    ----------
    settings
        Addresses, and the person's user.
    timeout_s
        Seconds to wait for the analysis.
    clock
        A monotonic clock, in seconds.

    Raises
    ------
    WorkerError
        If there is no result; the message says at which step and what to do.
    """
    session = make_session(settings.require_person())
    begun = clock()
    stored = _call(session, "POST", f"{settings.orthanc_url}/instances", make_probe_slide())
    try:
        return _analysed(settings, stored["ParentSeries"], timeout_s, begun, clock)
    finally:
        # The study is the probe's alone: results and requests go with it.
        _call(session, "DELETE", f"{settings.orthanc_url}/studies/{stored['ParentStudy']}")
        session.close()


def _analysed(
    settings: Settings, series: str, timeout_s: float, begun: float, clock: Callable[[], float]
) -> str:
    client = PluginClient(settings, settings.require_person())
    try:
        answer = client.submit({"series": series})
        if answer.get("warnings"):
            raise SubmitError(f"{' '.join(answer['warnings'])} Start one: pathology-worker run.")
        request = follow(client, answer["request"], _Silent(), timeout_s=timeout_s)
    finally:
        client.close()
    if request["status"] != "completed":
        error = request.get("error") or {}
        raise SubmitError(
            f"The drawn slide ended as {request['status']}: {error.get('message', 'no reason')}"
        )
    result = request["result"]
    return (
        f"{request['worker_id']} analysed a drawn slide of {result['patches']['count']} patches on "
        f"{result['software']['device']}; stored, analysed and back in {clock() - begun:.1f} s."
    )


def _call(session: requests.Session, method: str, url: str, data: bytes | None = None) -> dict[str, str]:
    try:
        answer = session.request(method, url, data=data, timeout=_TIMEOUT_S, allow_redirects=False)
    except requests.RequestException as error:
        raise unreachable(url, error) from error
    if not answer.ok:
        raise _refused(answer, method, url)
    document: dict[str, str] = answer.json()
    return document


def _refused(answer: requests.Response, method: str, url: str) -> WorkerError:
    if answer.status_code == 403:
        return ServerError(
            f"{method} {url} is forbidden to this user: SUBMIT_USER must be a person who may store."
        )
    if answer.status_code == 413:
        return ServerError(
            f"{url} takes no body of half a megabyte: raise client_max_body_size in the proxy."
        )
    return refusal(answer, url)
