# SPDX-License-Identifier: Apache-2.0
"""HTTP as every part of the worker uses it: sessions of one user, and failures as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from worker import __version__
from worker.errors import (
    BusyError,
    LeaseLostError,
    RefusedError,
    RequestGoneError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
)
from worker.settings import Credentials


def make_session(credentials: Credentials | None, connections: int = 8) -> requests.Session:
    """Make a session that authenticates as one user; proxies and CA come from the environment.

    ``.netrc`` is not consulted: it would silently replace the user that was set.
    """
    session = requests.Session()
    session.auth = _Basic(credentials) if credentials else _Nobody()
    session.headers["User-Agent"] = f"pathology-worker/{__version__}"
    adapter = HTTPAdapter(pool_connections=2, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


class _Nobody(requests.auth.AuthBase):
    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Basic(requests.auth.HTTPBasicAuth):
    """Basic authentication in UTF-8, as Orthanc compares it, and silent about itself."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(credentials.user.encode(), credentials.password.encode())

    def __repr__(self) -> str:
        return "<Basic authentication>"


def unreachable(address: str, error: requests.RequestException) -> ServerError:
    """Turn a failure of the transport into a sentence."""
    if isinstance(error, requests.exceptions.SSLError):
        text = "its certificate is not trusted here: set REQUESTS_CA_BUNDLE to the file of your CA"
    elif isinstance(error, requests.exceptions.ProxyError):
        text = "the proxy does not let it through: check HTTPS_PROXY and NO_PROXY"
    elif isinstance(error, requests.exceptions.Timeout):
        text = "no answer came in time: check the network, and READ_TIMEOUT if the line is slow"
    else:
        text = "check that Orthanc runs, the address and the network"
    failure = UnreachableError(f"Cannot reach {address}: {text}.")
    failure.dropped = _was_dropped(error)
    return failure


def _was_dropped(error: requests.RequestException) -> bool:
    """Whether an open connection was closed under the call (Orthanc does so after one idle second)."""
    return isinstance(error, requests.exceptions.ConnectionError) and "Connection aborted" in str(error)


def refusal(answer: requests.Response, address: str) -> ServerError:
    """Turn an error answer into the exception that tells what to do."""
    status = answer.status_code
    document = _document(answer)
    code, message = _error_fields(document, status)
    if status == 401:
        return UnauthorizedError(f"{address} does not accept the user or the password: check the settings.")
    if 300 <= status < 400:
        return RefusedError(
            status, f"http_{status}", f"{address} redirects elsewhere: set the final address."
        )
    if code == "lease_lost":
        return LeaseLostError(status, code, message)
    if status == 410 or code == "unknown_request":
        return RequestGoneError(status, code, message)
    if status == 429 or status >= 500:
        return BusyError(status, code, message, retry_after(answer))
    if status == 404 and code == "http_404":
        message = (
            f"{address} has no such route: check the address, and that Orthanc loads the pathology plugin."
        )
    return RefusedError(status, code, message, retry_after(answer), document)


def _document(answer: requests.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _error_fields(document: Mapping[str, Any], status: int) -> tuple[str, str]:
    """Return the contract's code and sentence, or stand-ins where something else answered."""
    code = document.get("code")
    text = document.get("error")
    return (
        code if isinstance(code, str) else f"http_{status}",
        text if isinstance(text, str) else f"The server answered {status} without saying why.",
    )


def retry_after(answer: requests.Response) -> float | None:
    """Return the seconds that an answer asks to wait, or None where it does not."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def body_of(answer: requests.Response, size: int) -> bytes:
    """Return the body of a streamed answer of which so many bytes are expected.

    In one piece, which is copied once, from the connection: by default requests takes 10 KB at a time, which
    costs as much as decoding.
    """
    return b"".join(answer.iter_content(size))
