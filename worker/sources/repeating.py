# SPDX-License-Identifier: Apache-2.0
"""Send a call again where that may help, and turn what does not help into sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import requests

from worker.api.transport import is_of_orthanc, refusal, unreachable
from worker.backoff import Wait
from worker.errors import BusyError, ForeignAnswerError, RefusedError, UnauthorizedError
from worker.settings import Settings

from .errors import (
    ChangedInMidReadError,
    SourceBlockedError,
    SourceDeletedError,
    SourceError,
    SourceRefusedError,
    SourceUnauthorizedError,
    SourceUnreachableError,
    WayMissingError,
)

Answer = TypeVar("Answer")

PAUSES_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before repeats. The first is none: Orthanc closes a connection that was idle for one second, and the
call that meets the closing is to be sent again at once."""

_LONGEST_PAUSE_S = 30.0


class TryAgainError(Exception):
    """A call that may succeed if it is sent again.

    Parameters
    ----------
    message
        The sentence for the user where no repeat helps.
    after_s
        Seconds that the server wants to pass first.
    otherwise
        What is raised where no repeat helps.
    """

    def __init__(
        self, message: str, after_s: float = 0.0, otherwise: type[SourceError] = SourceUnreachableError
    ) -> None:
        super().__init__(message)
        self.after_s = after_s
        self.otherwise = otherwise


def repeat(call: Callable[[], Answer], wait: Wait) -> Answer:
    """Call until it does not raise `TryAgainError`, or the pauses are used up.

    Raises
    ------
    SourceError
        If the last repeat failed too.
    """
    for pause in PAUSES_S:
        try:
            return call()
        except TryAgainError as failure:
            if wait(max(pause, min(failure.after_s, _LONGEST_PAUSE_S))):
                raise failure.otherwise(str(failure)) from failure
    try:
        return call()
    except TryAgainError as failure:
        raise failure.otherwise(str(failure)) from failure


def changed() -> ChangedInMidReadError:
    """Say that the stored file is another one by now."""
    return ChangedInMidReadError(
        "The slide was replaced in Orthanc while it was read; the request runs again on the new one."
    )


def ranges_failure(answer: requests.Response, address: str) -> Exception:
    """Tell what an error answer of the ranges route means."""
    error = refusal(answer, address)
    code = error.code if isinstance(error, RefusedError) else ""
    if code == "changed_in_mid_read":
        return changed()
    is_without_plugin = answer.status_code == 404 and is_of_orthanc(answer)
    # Orthanc 1.10 sends the plugin's 405 without a body.
    if code == "unknown_route" or answer.status_code == 405 or is_without_plugin:
        return WayMissingError(str(error))
    return orthanc_failure(answer, address)


def orthanc_failure(answer: requests.Response, address: str) -> Exception:
    """Tell what an error answer of the plugin, or of one of Orthanc's own routes, means.

    What neither of them says comes from a proxy, or from Orthanc's own bare 403 to a worker that has lost its
    lease, and may be over a moment later.
    """
    error = refusal(answer, address)
    if isinstance(error, UnauthorizedError):
        return TryAgainError(str(error), otherwise=SourceUnauthorizedError)
    if isinstance(error, BusyError):
        return TryAgainError(str(error), error.retry_after_s or 0.0)
    if isinstance(error, ForeignAnswerError) and not is_of_orthanc(answer):
        return TryAgainError(str(error), otherwise=SourceBlockedError)
    if answer.status_code in {404, 410}:
        return SourceDeletedError(
            "The slide is not in Orthanc any more: submit it again if it was stored anew."
        )
    return SourceRefusedError(f"Orthanc does not let this worker read the slide: {error}")


def orthanc_document(settings: Settings, session: requests.Session, path: str) -> dict[str, Any]:
    """Ask one of Orthanc's own routes once for a JSON object.

    Raises
    ------
    TryAgainError, SourceError
        If it does not come.
    """
    address = settings.orthanc_url
    try:
        answer = session.get(
            address + path,
            timeout=(settings.connect_timeout_s, settings.read_timeout_s),
            allow_redirects=False,
        )
    except requests.RequestException as error:
        raise TryAgainError(str(unreachable(address, error))) from error
    if answer.status_code != 200:
        raise orthanc_failure(answer, address)
    try:
        document = answer.json()
    except ValueError as error:
        raise no_slide(address) from error
    if not isinstance(document, dict):
        raise no_slide(address)
    return document


def no_slide(address: str) -> TryAgainError:
    """Tell of an answer, a success by its status, that holds something else than was asked for."""
    return TryAgainError(
        f"Something else than what was asked for came from {address}: check the proxy between this worker "
        "and Orthanc.",
        otherwise=SourceBlockedError,
    )
