# SPDX-License-Identifier: Apache-2.0
"""What can go wrong in the worker; every message is a sentence that says what to do.

::

    WorkerError
    |-- SettingsError              a setting is unknown, missing or has a bad value
    |-- ModelError                 no model can be loaded
    |-- ServerError                anything about talking to the plugin
    |   |-- UnreachableError            no answer: network, DNS, TLS, time-out
    |   |-- UnauthorizedError           401: wrong user or password
    |   |-- ForeignAnswerError          something else answered: a proxy's page, an Orthanc without the plugin
    |   `-- RefusedError                the plugin answered with an error; has `status` and `code`
    |       |-- LeaseLostError          the request belongs to somebody else now
    |       |-- RequestGoneError        the request or its series no longer exists
    |       `-- BusyError               429, 503: come back later
    |-- JobStoppedError                 the work on a request must end now, and why
    |-- SpoolError                 a result could not be kept on disk
    `-- SubmitError                a submitted request did not end with a result
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any


class WorkerError(Exception):
    """Root of everything that the worker raises on purpose."""


class SettingsError(WorkerError):
    """A setting is unknown, missing or has a value that cannot be used."""


class ModelError(WorkerError):
    """No model can be offered.

    Parameters
    ----------
    message
        The sentence for the user.
    code
        Stable identifier for a request's ``error.code``.
    """

    def __init__(self, message: str, code: str = "no_model") -> None:
        super().__init__(message)
        self.code = code


class ServerError(WorkerError):
    """Talking to the plugin failed."""


class UnreachableError(ServerError):
    """No answer came: network, name resolution, TLS or a time-out.

    Attributes
    ----------
    dropped
        Whether an open connection was closed under the call, which a fresh connection mends at once.
    """

    dropped = False


class UnauthorizedError(ServerError):
    """Orthanc did not accept the user or the password."""


class ForeignAnswerError(ServerError):
    """Something else than the plugin answered: a proxy's page, a redirect, an Orthanc without the plugin.

    It says nothing of the request: what stands in the way may be gone a moment later.
    """


class RefusedError(ServerError):
    """The plugin answered with an error.

    Parameters
    ----------
    status
        HTTP status of the answer.
    code
        The contract's error code, or ``http_<status>`` where a server in between is busy or failed.
    message
        The server's sentence.
    retry_after_s
        Seconds that the server asked to wait, if it did.
    details
        What else the answer says.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = details or {}
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class LeaseLostError(RefusedError):
    """The request belongs to another lease now; nothing of this work may be sent."""


class RequestGoneError(RefusedError):
    """The request or its series no longer exists."""


class BusyError(RefusedError):
    """The server cannot answer now (429, 503, or a fault of its own)."""


class StopReason(Enum):
    """Why the work on a request ends before its result."""

    CANCELLED = "cancelled"
    LEASE_LOST = "lease_lost"
    GONE = "gone"
    HANDED_BACK = "handed_back"


class JobStoppedError(WorkerError):
    """The work on a request must end now.

    Parameters
    ----------
    reason
        Why; decides what the server is told.
    """

    def __init__(self, reason: StopReason) -> None:
        super().__init__(f"The work on this request was stopped ({reason.value}).")
        self.reason = reason


class SpoolError(WorkerError):
    """A result could not be kept on disk."""


class SubmitError(WorkerError):
    """A submitted request did not end with a result."""
