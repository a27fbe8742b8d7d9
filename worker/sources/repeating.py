# SPDX-License-Identifier: Apache-2.0
"""Send a call again where that may help, and turn what does not help into sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import requests

from worker.errors import RefusedError, ServerError, UnauthorizedError
from worker.sources.errors import (
    ChangedInMidReadError,
    SourceDeletedError,
    SourceError,
    SourceRefusedError,
    SourceUnreachableError,
    WayMissingError,
)
from worker.transport import refusal

Answer = TypeVar("Answer")

Wait = Callable[[float], bool]
"""Waits the given seconds; True where no repeat is wanted any more."""

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
    """

    def __init__(self, message: str, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


def repeat(call: Callable[[], Answer], wait: Wait) -> Answer:
    """Call until it does not raise `TryAgainError`, or the pauses are used up.

    Raises
    ------
    SourceUnreachableError
        If the last repeat failed too.
    """
    for pause in PAUSES_S:
        try:
            return call()
        except TryAgainError as failure:
            if wait(max(pause, min(failure.after_s, _LONGEST_PAUSE_S))):
                raise SourceUnreachableError(str(failure)) from failure
    try:
        return call()
    except TryAgainError as failure:
        raise SourceUnreachableError(str(failure)) from failure


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
    if code in {"unknown_route", "method_not_allowed", "http_404", "http_405"}:
        return WayMissingError(str(error))
    return _failure(answer.status_code, error)


def orthanc_failure(answer: requests.Response, address: str) -> Exception:
    """Tell what an error answer of one of Orthanc's own routes means."""
    return _failure(answer.status_code, refusal(answer, address))


def _failure(status: int, error: ServerError) -> Exception:
    if status in {404, 410}:
        return SourceDeletedError(
            "The slide is not in Orthanc any more: submit it again if it was stored anew."
        )
    if status == 429 or status >= 500:
        after = error.retry_after_s if isinstance(error, RefusedError) else None
        return TryAgainError(str(error), after or 0.0)
    return _refused(error)


def _refused(error: ServerError) -> SourceError:
    if isinstance(error, UnauthorizedError):
        return SourceRefusedError(str(error))
    return SourceRefusedError(f"Orthanc does not let this worker read the slide: {error}")
